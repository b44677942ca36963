// ReLU and max pooling of the four pixels of a window, which are in registers.

#pragma once

#include <cstring>

#include "runtime/vectors.hpp"

namespace {

typedef std::int8_t Bytes __attribute__((vector_size(lanes)));

constexpr int dead = 4;  // the argmax where ReLU zeroes the maximum

// The argmax is the first of equal maxima. A NaN is passed on and counts as dead.
inline void store_pooled(const Vector z[4], Vector bias, float* y, std::int8_t* argmax,
                         Index count) {
    Vector highest = z[0];
    Integers number{};
    for (int k = 1; k < 4; k++) {
        const Integers higher = (z[k] > highest) | (z[k] != z[k]);
        highest = higher ? z[k] : highest;
        number = higher ? Integers{} + k : number;
    }
    highest += bias;
    number = highest > 0.0f ? number : Integers{} + dead;
    store(y, highest < 0.0f ? Vector{} : highest, count);
    const Bytes bytes = __builtin_convertvector(number, Bytes);
    std::memcpy(argmax, &bytes, std::min<Index>(count, lanes));
}

}  // namespace
