// 3x3 convolution, alone or with relu and 2x2 pooling, and the gradient of its weight, by
// Winograd's F(2x2, 3x3): 2.25 times fewer products.
//
// The order of a sum never depends on the number of threads. Functions return whether they had the
// memory they needed.

#include "pool.hpp"
#include "problem.hpp"
#include "product.hpp"
#include "vectors.hpp"
#include "winograd.hpp"

namespace {

// What a thread works on at a time, bytes: most of a second-level cache of 1 MiB.
constexpr Index cached = 768 * 1024;

// Tiles that are worked on together: few enough for the cache, as many for each thread.
Index tiles_at_once(Index tiles, Index bytes, Index least, Index threads) {
    const Index fit = std::max(least, cached / bytes);
    const Index rounds = ceil_div(ceil_div(tiles, threads), fit);
    return ceil_div(tiles, rounds * threads);
}

// Calls finish(the four results of a tile for a vector of channels, tile, channel) for each.
template <class Finish>
bool convolve(const Problem& p, const float* images, const Tiles& tiles, const float* weight,
              Finish finish) {
    constexpr Index some = 8;  // input channels of a weight transformed at a time
    const Index in = p.in_channels, out = p.out_channels;
    const Index vectors = ceil_div(out, lanes);
    const Index in_row = Planes::row_for(in), out_row = Planes::row_for(out);
    const Index count =
        tiles_at_once(tiles.count(), 64 * (in_row + out_row), 8 * block_rows, p.threads);
    const Index in_plane = Planes::plane_for(count, in_row);
    const Index out_plane = Planes::plane_for(count, out_row);
    const Index weight_plane = in * vectors * lanes + lanes;
    const Index own = 16 * (in_plane + out_plane);
    const Scratch scratch(16 * weight_plane + p.threads * own);
    if (!scratch) return false;
    float* const kernels = scratch.get();
    // Vectors of output channels that a block has whose first is `vector`.
    auto width_of = [=](Index vector) { return std::min<Index>(block_vectors, vectors - vector); };
#pragma omp parallel num_threads(p.threads)
    {
#pragma omp for schedule(static)
        for (Index item = 0; item < vectors * ceil_div(in, some); item++) {
            const Index vector = item % vectors, first = item / vectors * some;
            const Index block = vector / block_vectors * block_vectors;
            const Index row = width_of(block) * lanes;
            float* to = kernels + block * lanes * in + first * row + (vector - block) * lanes;
            transform_weight<some>(weight, p, vector * lanes, first, std::min(some, in - first), to,
                                   row, weight_plane);
        }
        float* const mine = kernels + 16 * weight_plane + omp_get_thread_num() * own;
        const Planes pixels{mine, in_row, in_plane};
        const Planes results{mine + 16 * in_plane, out_row, out_plane};
#pragma omp for schedule(dynamic)
        for (Index first = 0; first < tiles.count(); first += count) {
            const Index here = std::min(count, tiles.count() - first);
            transform_images(images, tiles, first, here, pixels, 0, in);
            for (int k = 0; k < 16; k++)
                for (Index v = 0; v < vectors; v += block_vectors)
                    product<false>(
                        here, static_cast<int>(width_of(v)), {pixels.at + k * in_plane, in_row, 1},
                        {kernels + k * weight_plane + v * lanes * in, width_of(v) * lanes},
                        {results.at + k * out_plane + v * lanes, out_row}, in);
            for (Index t = 0; t < here; t++)
                for (Index c = 0; c < out; c += lanes) {
                    Vector z[4];
                    transform_results(results.at + t * out_row + c, out_plane, z);
                    finish(z, first + t, c);
                }
        }
    }
    return true;
}

// How the gradient of a weight is shared out: sums over groups of tiles, which are added in the
// end, and parts of the input channels where the groups are too few for the threads.
struct Shares {
    Index groups, parts;

    Shares(const Problem& p, Index tiles, Index sums) {
        // The groups make the result: they depend on the problem only.
        const Index memory = 4 * cached / (Index(sizeof(float)) * sums);
        groups = std::clamp<Index>(std::min(tiles / 256, memory), 1, 8);
        parts = std::clamp<Index>(ceil_div(2 * p.threads, groups), 1,
                                  ceil_div(p.in_channels, 4 * block_rows));
    }
};

}  // namespace

extern "C" {

// y = conv2d(x, weight, bias, padding=1); bias may be null.
bool conv3x3(const Problem& p, const float* x, const float* weight, const float* bias, float* y) {
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

// y = max_pool2d(relu(conv2d(x, weight, bias, padding=1)), 2), and which pixel of its window won.
bool conv3x3_relu_pool(const Problem& p, const float* x, const float* weight, const float* bias,
                       float* y, std::int8_t* winner) {
    const Tiles tiles = Tiles::of(p.inputs(), true);
    return convolve(p, x, tiles, weight, [=, &p](Vector z[4], Index tile, Index c) {
        const Index n = p.out_channels - c, at = tile * p.out_channels + c;
        store_pooled(z, bias ? load(bias + c, n) : Vector{}, y + at, winner + at, n);
    });
}

// The gradient of the weight of conv3x3.
bool conv3x3_weight_grad(const Problem& p, const float* x, const float* grad, float* weight_grad) {
    const Tiles tiles = Tiles::of(p.inputs(), false), results = Tiles::of(p.outputs(), false);
    const Index out_row = Planes::row_for(p.out_channels);
    const Index sum_plane = p.in_channels * out_row + lanes, sums = 16 * sum_plane;
    const Shares shares(p, tiles.count(), sums);
    const Index group = ceil_div(tiles.count(), shares.groups);
    const Index part = ceil_div(ceil_div(p.in_channels, shares.parts), block_rows) * block_rows;
    const Index in_row = Planes::row_for(part);
    // As long a sum as the cache has room for, but not by the threads' parts.
    const Index all_rows = Planes::row_for(p.in_channels) + out_row;
    const Index fit = std::max<Index>(96, cached / (64 * all_rows));
    const Index count = ceil_div(group, ceil_div(group, fit));
    const Index in_plane = Planes::plane_for(count, in_row);
    const Index out_plane = Planes::plane_for(count, out_row);
    const Index own = 16 * (in_plane + out_plane);
    const Index vectors = ceil_div(p.out_channels, lanes);
    const Scratch scratch(p.threads * own + shares.groups * sums);
    if (!scratch) return false;
    float* const all_sums = scratch.get() + p.threads * own;
#pragma omp parallel num_threads(p.threads)
    {
        float* const mine = scratch.get() + omp_get_thread_num() * own;
        const Planes pixels{mine, in_row, in_plane};
        const Planes grads{mine + 16 * in_plane, out_row, out_plane};
#pragma omp for schedule(dynamic) collapse(2)
        for (Index g = 0; g < shares.groups; g++)
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
                                 ? product<false>
                                 : product<true>)(channels, static_cast<int>(width),
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
                for (Index g = 0; g < shares.groups; g++)
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
