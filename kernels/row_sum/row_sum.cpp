// Sums over the rows of a matrix, such as the gradient of a linear layer's bias.

#include "runtime/vectors.hpp"

// row_sum/cpp.py fills it in.
struct Matrix {
    Index rows, columns;
    std::int32_t threads;
};

extern "C" {

// y[column] is the sum of x[row][column], added up in the order of the rows.
bool sum_rows(const Matrix& p, const float* x, float* y) {
#pragma omp parallel for num_threads(p.threads) if (p.columns > lanes)
    for (Index j = 0; j < p.columns; j += lanes) {
        const Index count = std::min<Index>(lanes, p.columns - j);
        Vector sum{};
        for (Index i = 0; i < p.rows; i++) sum += load(x + i * p.columns + j, count);
        store(y + j, sum, count);
    }
    return true;
}

}  // extern "C"
