// Copies of images between contiguous and channels-last: transposes of one matrix per image.

#include "runtime/vectors.hpp"

// `batch` matrices of rows x columns. reorder/cpp.py fills it in.
struct Matrices {
    Index batch, rows, columns;
    std::int32_t threads;
};

namespace {

// Transposes a square of vectors: each stage swaps two quarters of ever larger squares.
inline void transpose(Vector (&square)[lanes]) {
#pragma GCC unroll 4
    for (int s = 1; s < lanes; s *= 2) {
        Integers low{}, high{};
#pragma GCC unroll 16
        for (int k = 0; k < lanes; k++) {
            low[k] = k & s ? k - s + lanes : k;
            high[k] = k & s ? k + lanes : k + s;
        }
#pragma GCC unroll 16
        for (int i = 0; i < lanes; i++) {
            if (i & s) continue;
            const Vector a = square[i], b = square[i + s];
            square[i] = __builtin_shuffle(a, b, low);
            square[i + s] = __builtin_shuffle(a, b, high);
        }
    }
}

// y[o * y_outer + i * y_inner] = x[o * x_outer + i * x_inner].
inline void copy_part(const float* x, Index x_outer, Index x_inner, float* y, Index y_outer,
                      Index y_inner, Index outer, Index inner) {
    for (Index o = 0; o < outer; o++)
        for (Index i = 0; i < inner; i++) y[o * y_outer + i * y_inner] = x[o * x_outer + i * x_inner];
}

}  // namespace

extern "C" {

// y[b][column][row] = x[b][row][column].
bool reorder_images(const Matrices& p, const float* x, float* y) {
    const Index whole_rows = p.rows / lanes * lanes, whole_columns = p.columns / lanes * lanes;
#pragma omp parallel for num_threads(p.threads)
    for (Index b = 0; b < p.batch; b++) {
        const float* const from = x + b * p.rows * p.columns;
        float* const to = y + b * p.rows * p.columns;
        for (Index i = 0; i < whole_rows; i += lanes)
            for (Index j = 0; j < whole_columns; j += lanes) {
                Vector square[lanes];
                for (int k = 0; k < lanes; k++) square[k] = load(from + (i + k) * p.columns + j);
                transpose(square);
                for (int k = 0; k < lanes; k++) store(to + (j + k) * p.rows + i, square[k]);
            }
        copy_part(from + whole_rows * p.columns, p.columns, 1, to + whole_rows, 1, p.rows,
                  p.rows - whole_rows, whole_columns);
        copy_part(from + whole_columns, 1, p.columns, to + whole_columns * p.rows, p.rows, 1,
                  p.columns - whole_columns, p.rows);
    }
    return true;
}

}  // extern "C"
