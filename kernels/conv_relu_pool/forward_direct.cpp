// 3x3 convolution, ReLU and 2x2 max pooling of images with few channels, for which Winograd's
// transforms do not pay off: the pixels of a few windows are in registers together.

#include "conv_relu_pool/padded.hpp"
#include "conv_relu_pool/pool.hpp"
#include "conv3x3/conv_shape.hpp"
#include "runtime/vectors.hpp"

namespace {

// Computes the pooled values of `Count` adjacent windows for two vectors of output channels.
template <int Count>
void windows_of(const float* pixels, Index line, Index channels, const float* kernel, Index row,
                const float* bias, float* y, std::int8_t* argmax, Index out_channels, Index here) {
    Vector sum[4 * Count][2] = {};
    for (int i = 0; i < 3; i++) {
        const float* from = pixels + i * line;
        for (Index k = 0; k < 3 * channels; k++, kernel += row) {
            const Vector left = load(kernel), right = load(kernel + lanes);
#pragma GCC unroll 12
            for (int p = 0; p < 4 * Count; p++) {
                const Index column = 2 * (p / 4) + p % 2;
                const float pixel = from[k + column * channels + (p % 4 / 2) * line];
                sum[p][0] += pixel * left;
                sum[p][1] += pixel * right;
            }
        }
    }
#pragma GCC unroll 3
    for (int w = 0; w < Count; w++)
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++) {
            const Index n = here - v * lanes;
            if (n <= 0) continue;
            const Vector z[4] = {sum[4 * w][v], sum[4 * w + 1][v], sum[4 * w + 2][v],
                                 sum[4 * w + 3][v]};
            const Index at = w * out_channels + v * lanes;
            store_pooled(z, bias ? load(bias + v * lanes, n) : Vector{}, y + at, argmax + at, n);
        }
}

}  // namespace

extern "C" {

// Same as conv3x3_relu_pool.
bool conv3x3_relu_pool_direct(const ConvShape& p, const float* x, const float* weight,
                              const float* bias, float* y, std::int8_t* argmax) {
    const Padded padded(p.inputs());
    constexpr Index together = lanes == 16 ? 3 : 1, block = 2 * lanes;
    const Index channels = p.in_channels, row = ceil_div(p.out_channels, block) * block;
    const Index kernel_size = 9 * channels * row, per_thread = whole_vectors(padded.size());
    const Scratch scratch(kernel_size + p.threads * per_thread);
    if (!scratch) return false;
    // [tap][input channel][output channel], zero-padded
    float* const kernel = scratch.get();
    std::fill_n(kernel, kernel_size, 0.0f);
    for (Index o = 0; o < p.out_channels; o++)
        for (Index i = 0; i < channels; i++)
            for (int k = 0; k < 9; k++)
                kernel[(k * channels + i) * row + o] = weight[p.at(o, i, k)];
    const Index rows = p.height / 2, columns = p.width / 2;
#pragma omp parallel for num_threads(p.threads) schedule(dynamic)
    for (Index b = 0; b < p.batch; b++) {
        float* const image = kernel + kernel_size + omp_get_thread_num() * per_thread;
        padded.fill(image, x + b * p.inputs().size());
        for (Index r = 0; r < rows; r++)
            for (Index c = 0; c < p.out_channels; c += block)
                for (Index q = 0; q < columns; q += together) {
                    const Index to = ((b * rows + r) * columns + q) * p.out_channels + c;
                    auto compute = [&]<int Count>() {
                        windows_of<Count>(image + 2 * (r * padded.row() + q * channels),
                                          padded.row(), channels, kernel + c, row,
                                          bias ? bias + c : nullptr, y + to, argmax + to,
                                          p.out_channels, p.out_channels - c);
                    };
                    const Index count = std::min(together, columns - q);
                    if (count == 1) compute.template operator()<1>();
                    if (count == 2) compute.template operator()<2>();
                    if (count == 3) compute.template operator()<3>();
                }
    }
    return true;
}

}  // extern "C"
