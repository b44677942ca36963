// Multiplication of small matrices that stay in the cache, blocked in registers.

#pragma once

#include "runtime/vectors.hpp"

namespace {

// Accumulators of a block, rows by vectors. They use all 32 registers of AVX-512 or 16 of AVX2, and
// are enough independent sums to hide the latency of an addition.
constexpr int block_rows = 6;
constexpr int block_vectors = lanes == 16 ? 4 : 2;
constexpr Index block_width = block_vectors * lanes;

// The left matrix is read element by element, the right one in vectors.
struct Left {
    const float* at;
    Index row, step;
};
struct Right {
    const float* at;
    Index step;
};
struct Result {
    float* at;
    Index row;
};

template <int Rows, int Vectors, bool Add>
void block(Left a, Right b, Result c, Index depth) {
    Vector sum[Rows][Vectors] = {};
    for (Index k = 0; k < depth; k++) {
        Vector right[Vectors];
#pragma GCC unroll 8
        for (int j = 0; j < Vectors; j++) right[j] = load(b.at + j * lanes);
#pragma GCC unroll 8
        for (int i = 0; i < Rows; i++) {
            const float left = a.at[i * a.row];
#pragma GCC unroll 8
            for (int j = 0; j < Vectors; j++) sum[i][j] += left * right[j];
        }
        a.at += a.step;
        b.at += b.step;
    }
#pragma GCC unroll 8
    for (int i = 0; i < Rows; i++)
#pragma GCC unroll 8
        for (int j = 0; j < Vectors; j++) {
            float* to = c.at + i * c.row + j * lanes;
            // Added last, since sums of sums are more exact than one long sum.
            store(to, Add ? load(to) + sum[i][j] : sum[i][j]);
        }
}

template <int Rows, bool Add>
void row_of_blocks(int vectors, Left a, Right b, Result c, Index depth) {
    if (vectors == 1) block<Rows, 1, Add>(a, b, c, depth);
    if (vectors == 2) block<Rows, 2, Add>(a, b, c, depth);
    if constexpr (block_vectors > 2) {
        if (vectors == 3) block<Rows, 3, Add>(a, b, c, depth);
        if (vectors == 4) block<Rows, 4, Add>(a, b, c, depth);
    }
}

// c = a b, or c += a b: `rows` rows by `vectors` vectors, at most `block_vectors`.
template <bool Add>
void matmul(Index rows, int vectors, Left a, Right b, Result c, Index depth) {
    for (; rows >= block_rows; rows -= block_rows) {
        row_of_blocks<block_rows, Add>(vectors, a, b, c, depth);
        a.at += block_rows * a.row;
        c.at += block_rows * c.row;
    }
    if (rows == 1) row_of_blocks<1, Add>(vectors, a, b, c, depth);
    if (rows == 2) row_of_blocks<2, Add>(vectors, a, b, c, depth);
    if (rows == 3) row_of_blocks<3, Add>(vectors, a, b, c, depth);
    if (rows == 4) row_of_blocks<4, Add>(vectors, a, b, c, depth);
    if (rows == 5) row_of_blocks<5, Add>(vectors, a, b, c, depth);
}

}  // namespace
