// Sizes and layouts of a convolution's images and weight.

#pragma once

#include "runtime/vectors.hpp"

namespace {

// Channels-last images.
struct Images {
    Index batch, height, width, channels;

    Index row() const { return width * channels; }
    Index size() const { return height * row(); }
};

}  // namespace

// A 3x3 convolution with stride and padding 1 by a weight [Cout, Cin, 3, 3] in any layout.
// conv3x3/cpp.py fills it in.
struct ConvShape {
    Index batch, height, width, in_channels, out_channels;
    Index stride_out, stride_in, stride_row, stride_column;  // of the weight
    // Reverses the taps. With stride_out and stride_in swapped as well, the gradient of the images
    // is a convolution, too.
    std::int32_t flipped;
    std::int32_t threads;

    Images inputs() const { return {batch, height, width, in_channels}; }
    Images outputs() const { return {batch, height, width, out_channels}; }
    // Offset of an element of the weight; taps are numbered row by row.
    Index at(Index out_channel, Index in_channel, int tap) const {
        const int k = flipped ? 8 - tap : tap;
        return out_channel * stride_out + in_channel * stride_in + k / 3 * stride_row +
               k % 3 * stride_column;
    }
};
