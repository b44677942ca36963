// What a call is about: images and weight in memory.

#pragma once

#include "vectors.hpp"

namespace {

// Channels-last images.
struct Images {
    Index batch, height, width, channels;

    Index row() const { return width * channels; }
    Index size() const { return height * row(); }
};

}  // namespace

// A 3x3 convolution with stride and padding 1 of images, by a weight [Cout, Cin, 3, 3] in any
// layout. `library.py` fills it.
struct Problem {
    Index batch, height, width, in_channels, out_channels;
    Index out, in, down, right;  // strides of the weight
    // Counts the taps from their end: with `out` and `in` in each other's place the gradient of
    // images is a convolution, too.
    std::int32_t flipped;
    std::int32_t threads;

    Images inputs() const { return {batch, height, width, in_channels}; }
    Images outputs() const { return {batch, height, width, out_channels}; }
    // Where a number of the weight lies, taps counted along rows.
    Index at(Index out_channel, Index in_channel, int tap) const {
        const int k = flipped ? 8 - tap : tap;
        return out_channel * out + in_channel * in + k / 3 * down + k % 3 * right;
    }
};
