// 3x3 convolution by Winograd's F(2x2, 3x3), with the last step left to the caller.

#pragma once

#include "conv3x3/conv_shape.hpp"
#include "conv3x3/matmul.hpp"
#include "conv3x3/winograd.hpp"
#include "runtime/vectors.hpp"

namespace {

// Working set of a thread, bytes: most of a second-level cache of 1 MiB.
constexpr Index l2_bytes = 768 * 1024;

// Number of tiles to compute together: they fit into the cache and divide evenly among the threads.
Index tiles_at_once(Index tiles, Index bytes, Index least, Index threads) {
    const Index fit = std::max(least, l2_bytes / bytes);
    const Index rounds = ceil_div(ceil_div(tiles, threads), fit);
    return ceil_div(tiles, rounds * threads);
}

// Calls finish(results, tile, channel) with the four results of every tile and vector of channels.
template <class Finish>
bool convolve(const ConvShape& p, const float* images, const Tiles& tiles, const float* weight,
              Finish finish) {
    constexpr Index some = 8;  // input channels of a weight that are transformed together
    const Index in = p.in_channels, out = p.out_channels;
    const Index vectors = ceil_div(out, lanes);
    const Index in_row = Planes::row_for(in), out_row = Planes::row_for(out);
    const Index count =
        tiles_at_once(tiles.count(), 64 * (in_row + out_row), 8 * block_rows, p.threads);
    const Index in_plane = Planes::plane_for(count, in_row);
    const Index out_plane = Planes::plane_for(count, out_row);
    const Index weight_plane = in * vectors * lanes + lanes;
    const Index per_thread = 16 * (in_plane + out_plane);
    const Scratch scratch(16 * weight_plane + p.threads * per_thread);
    if (!scratch) return false;
    float* const kernels = scratch.get();
    // Number of vectors of output channels in the block that begins with `vector`.
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
        float* const memory = kernels + 16 * weight_plane + omp_get_thread_num() * per_thread;
        const Planes pixels{memory, in_row, in_plane};
        const Planes results{memory + 16 * in_plane, out_row, out_plane};
#pragma omp for schedule(dynamic)
        for (Index first = 0; first < tiles.count(); first += count) {
            const Index here = std::min(count, tiles.count() - first);
            transform_images(images, tiles, first, here, pixels, 0, in);
            for (int k = 0; k < 16; k++)
                for (Index v = 0; v < vectors; v += block_vectors)
                    matmul<false>(
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

}  // namespace
