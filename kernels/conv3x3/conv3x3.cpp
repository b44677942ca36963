// 3x3 convolution and the gradient of its weight by Winograd's F(2x2, 3x3): 2.25x fewer
// multiplications than a direct convolution.
//
// The order of a sum never depends on the number of threads. Functions return false if they cannot
// allocate their working memory.

#include "conv3x3/conv_shape.hpp"
#include "conv3x3/convolve.hpp"
#include "conv3x3/matmul.hpp"
#include "conv3x3/winograd.hpp"
#include "runtime/vectors.hpp"

namespace {

// How the gradient of a weight is partitioned: into groups of tiles, whose sums are added at the
// end, and into parts of the input channels where there are fewer groups than threads.
struct Partition {
    Index groups, parts;

    Partition(const ConvShape& p, Index tiles, Index sums) {
        // The groups affect rounding, so they depend on the shape only.
        const Index memory = 4 * l2_bytes / (Index(sizeof(float)) * sums);
        groups = std::clamp<Index>(std::min(tiles / 256, memory), 1, 8);
        parts = std::clamp<Index>(ceil_div(2 * p.threads, groups), 1,
                                  ceil_div(p.in_channels, 4 * block_rows));
    }
};

}  // namespace

extern "C" {

// y = conv2d(x, weight, bias, padding=1); bias may be null.
bool conv3x3(const ConvShape& p, const float* x, const float* weight, const float* bias, float* y) {
    const Tiles tiles = Tiles::of(p.inputs(), false), results = Tiles::of(p.outputs(), false);
    return convolve(p, x, tiles, weight, [=, &p](Vector z[4], Index tile, Index c) {
        const Index n = p.out_channels - c, row = p.outputs().row();
        if (bias)
            for (int k = 0; k < 4; k++) z[k] += load(bias + c, n);
        float* to = y + results.pixel(tile) + c;
        const bool below = 2 * results.row(tile) + 1 < p.height;
        const bool beside = 2 * results.column(tile) + 1 < p.width;
        store(to, z[0], n);
        if (beside) store(to + p.out_channels, z[1], n);
        if (below) store(to + row, z[2], n);
        if (below && beside) store(to + row + p.out_channels, z[3], n);
    });
}

// The gradient of the weight of conv3x3.
bool conv3x3_weight_grad(const ConvShape& p, const float* x, const float* grad, float* weight_grad) {
    const Tiles tiles = Tiles::of(p.inputs(), false), results = Tiles::of(p.outputs(), false);
    const Index out_row = Planes::row_for(p.out_channels);
    const Index sum_plane = p.in_channels * out_row + lanes, sums = 16 * sum_plane;
    const Partition partition(p, tiles.count(), sums);
    const Index group = ceil_div(tiles.count(), partition.groups);
    const Index part = ceil_div(ceil_div(p.in_channels, partition.parts), block_rows) * block_rows;
    const Index in_row = Planes::row_for(part);
    // As long a sum as fits into the cache. The parts do not matter, as they depend on the threads.
    const Index all_rows = Planes::row_for(p.in_channels) + out_row;
    const Index fit = std::max<Index>(96, l2_bytes / (64 * all_rows));
    const Index count = ceil_div(group, ceil_div(group, fit));
    const Index in_plane = Planes::plane_for(count, in_row);
    const Index out_plane = Planes::plane_for(count, out_row);
    const Index per_thread = 16 * (in_plane + out_plane);
    const Index vectors = ceil_div(p.out_channels, lanes);
    const Scratch scratch(p.threads * per_thread + partition.groups * sums);
    if (!scratch) return false;
    float* const all_sums = scratch.get() + p.threads * per_thread;
#pragma omp parallel num_threads(p.threads)
    {
        float* const memory = scratch.get() + omp_get_thread_num() * per_thread;
        const Planes pixels{memory, in_row, in_plane};
        const Planes grads{memory + 16 * in_plane, out_row, out_plane};
#pragma omp for schedule(dynamic) collapse(2)
        for (Index g = 0; g < partition.groups; g++)
            for (Index from = 0; from < p.in_channels; from += part) {
                const Index channels = std::min(part, p.in_channels - from);
                const Index start = g * group, end = std::min(start + group, tiles.count());
                for (Index first = start; first < end; first += count) {
                    const Index here = std::min(count, end - first);
                    transform_images(x, tiles, first, here, pixels, from, channels);
                    transform_gradients(grad, results, first, here, grads);
                    for (int k = 0; k < 16; k++)
                        for (Index v = 0; v < vectors; v += block_vectors) {
                            const auto width = std::min<Index>(block_vectors, vectors - v);
                            float* to = all_sums + g * sums + k * sum_plane + from * out_row;
                            (first == start
                                 ? matmul<false>
                                 : matmul<true>)(channels, static_cast<int>(width),
                                                  {pixels.at + k * in_plane, 1, in_row},
                                                  {grads.at + k * out_plane + v * lanes, out_row},
                                                  {to + v * lanes, out_row}, here);
                        }
                }
            }
#pragma omp for schedule(static) collapse(2)
        for (Index v = 0; v < vectors; v++)
            for (Index i = 0; i < p.in_channels; i++) {
                Vector sum[16] = {}, taps[9];
                for (Index g = 0; g < partition.groups; g++)
                    for (int k = 0; k < 16; k++)
                        sum[k] +=
                            load(all_sums + g * sums + k * sum_plane + i * out_row + v * lanes);
                transform_weight_gradient(sum, taps);
                for (Index l = 0; l < std::min<Index>(lanes, p.out_channels - v * lanes); l++)
                    for (int k = 0; k < 9; k++) weight_grad[p.at(v * lanes + l, i, k)] = taps[k][l];
            }
    }
    return true;
}

}  // extern "C"
