// An image with a border, in working memory.

#pragma once

#include <cstring>

#include "conv3x3/conv_shape.hpp"
#include "runtime/vectors.hpp"

namespace {

// An image with a border of one zero pixel, and one more line, since complete vectors are read from
// any three pixels on.
struct Padded {
    Index height, width, channels;

    explicit Padded(const Images& images)
        : height(images.height + 2), width(images.width + 2), channels(images.channels) {}
    Index row() const { return width * channels; }
    Index size() const { return (height + 1) * row() + 2 * lanes; }

    void fill(float* to, const float* image) const {
        const Index inner = row() - 2 * channels;
        std::memset(to, 0, sizeof(float) * size());
        for (Index y = 1; y < height - 1; y++, image += inner)
            std::memcpy(to + y * row() + channels, image, sizeof(float) * inner);
    }
};

}  // namespace
