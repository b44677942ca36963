// The gradients of 3x3 convolution, ReLU and 2x2 max pooling.
//
// At most one of the four pixels of a window has a gradient. The sums are over those pixels only,
// with all input channels of three adjacent pixels as vectors. The order of a sum never depends on
// the number of threads. Functions return false if they cannot allocate their working memory.

#include <cstring>

#include "conv_relu_pool/padded.hpp"
#include "conv_relu_pool/pool.hpp"
#include "conv3x3/conv_shape.hpp"
#include "runtime/vectors.hpp"

namespace {

// Working set, bytes: most of a first-level cache of 32 KiB.
constexpr Index l1_bytes = 20 * 1024;

// A row of the kernel, three pixels of all input channels, divided into strips of registers.
struct Strips {
    // Three rows of a strip are in registers together.
    static constexpr int most = lanes == 16 ? 8 : 4;
    Index vectors, count, each;

    explicit Strips(Index channels)
        : vectors(ceil_div(3 * channels, lanes)),
          count(ceil_div(vectors, most)),
          each(ceil_div(vectors, count)) {}
    Index row() const { return count * each * lanes; }
    Index size() const { return 3 * row(); }
};

// A gradient that is not zero, and the offset of what it belongs to.
struct Alive {
    std::int32_t from;
    float grad;
};

// The windows of an image. Gradients are sorted before use, so that loops over those of one kind
// are long and have no branch.
struct Windows {
    static constexpr Index channels = lanes == 16 ? 32 : 16;  // output channels sorted together
    Index rows, columns;
    Padded padded;

    explicit Windows(const Images& images)
        : rows(images.height / 2), columns(images.width / 2), padded(images) {}
    Index count() const { return rows * columns; }
    // Offset of the first of a window's 4x4 pixels in the image with a border.
    Index corner(Index window) const {
        return 2 * (window / columns * padded.row() + window % columns * padded.channels);
    }
    // Number of windows whose pixels fit into the cache.
    Index fitting() const {
        const Index fit = l1_bytes / Index(sizeof(float)) / (2 * padded.row());
        return std::min<Index>(std::clamp<Index>(fit - 1, 1, rows) * columns, 64);
    }
};

// sums[3 rows] += gradient * the pixels it belongs to, for one strip.
template <int Vectors>
void gather(const float* image, Index line, const Alive* alive, Index count, float* sums,
            Index row) {
    Vector sum[3][Vectors] = {};
    auto add = [=](Alive one, Vector(&to)[3][Vectors]) __attribute__((always_inline)) {
        const float* from = image + one.from;
#pragma GCC unroll 3
        for (int i = 0; i < 3; i++, from += line)
#pragma GCC unroll 8
            for (int j = 0; j < Vectors; j++) to[i][j] += one.grad * load(from + j * lanes);
    };
    Index n = 0;
    if constexpr (Vectors <= 2) {  // more independent sums hide the latency
        Vector other[3][Vectors] = {};
        for (; n + 2 <= count; n += 2) {
            add(alive[n], sum);
            add(alive[n + 1], other);
        }
        for (int i = 0; i < 3; i++)
            for (int j = 0; j < Vectors; j++) sum[i][j] += other[i][j];
    }
    for (; n < count; n++) add(alive[n], sum);
#pragma GCC unroll 3
    for (int i = 0; i < 3; i++)
#pragma GCC unroll 8
        for (int j = 0; j < Vectors; j++) {
            float* to = sums + i * row + j * lanes;
            store(to, load(to) + sum[i][j]);
        }
}

// The 4x4 pixels of a window for one vector of channels += gradients * kernels, [channel][tap].
// `alive` holds the gradients for each possible argmax, `most` apart.
inline void spread(float* pixels, Index line, Index step, const Alive* alive, const Index* count,
                   Index most, const float* kernels) {
    Vector sum[4][4] = {};
#pragma GCC unroll 4
    for (int index = 0; index < 4; index++)
        for (Index n = 0; n < count[index]; n++) {
            const float* kernel = kernels + alive[index * most + n].from;
            const float grad = alive[index * most + n].grad;
#pragma GCC unroll 9
            for (int k = 0; k < 9; k++)
                sum[index / 2 + k / 3][index % 2 + k % 3] += grad * load(kernel + k * lanes);
        }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            float* pixel = pixels + i * line + j * step;
            store(pixel, load(pixel) + sum[i][j]);
        }
}

// bias += the gradients that are not zero, of all windows and of `here` channels, `all` apart.
void add_alive(const float* grad, const std::int8_t* argmax, Index windows, Index here, Index all,
               float* bias) {
    for (Index c = 0; c < here; c += lanes) {
        const Index n = std::min<Index>(lanes, here - c);
        Vector sum{};
        for (Index at = c; at < windows * all; at += all) {
            Bytes index{};
            std::memcpy(&index, argmax + at, n);
            const Integers number = __builtin_convertvector(index, Integers);
            sum += number != dead ? load(grad + at, n) : Vector{};
        }
        store(bias + c, load(bias + c, n) + sum, n);
    }
}

// Calls f.operator()<vectors>(), for 1 to Strips::most vectors.
template <class F, int Vectors = 1>
void with_vectors(Index vectors, F f) {
    if (vectors == Vectors)
        f.template operator()<Vectors>();
    else if constexpr (Vectors < Strips::most)
        with_vectors<F, Vectors + 1>(vectors, f);
}

}  // namespace

extern "C" {

// The gradient of the images, from that of the pooled values and their argmax.
bool conv3x3_relu_pool_input_grad(const ConvShape& p, const float* grad, const std::int8_t* argmax,
                       const float* weight, float* input_grad) {
    // In working memory an image has complete vectors of channels.
    const Index channels = whole_vectors(p.in_channels);
    const Windows windows({p.batch, p.height, p.width, channels});
    const Padded& padded = windows.padded;
    constexpr Index sorted = Windows::channels, together = 16, lists = 5 * sorted;
    const Index kernels_size = 9 * channels * p.out_channels;
    const Index per_thread = whole_vectors(padded.size());
    const Scratch scratch(kernels_size + p.threads * per_thread);
    const Scratch memory(p.threads * together * lists * Index(sizeof(Alive) / sizeof(float)));
    if (!scratch || !memory) return false;
    // [vector of input channels][output channel][tap]
    float* const kernels = scratch.get();
#pragma omp parallel num_threads(p.threads)
    {
        float* const image = kernels + kernels_size + omp_get_thread_num() * per_thread;
        Alive* const alive =
            reinterpret_cast<Alive*>(memory.get()) + omp_get_thread_num() * together * lists;
#pragma omp for schedule(static)
        for (Index o = 0; o < p.out_channels; o++)
            for (Index i = 0; i < channels; i++)
                for (int k = 0; k < 9; k++)
                    kernels[((i / lanes * p.out_channels + o) * 9 + k) * lanes + i % lanes] =
                        i < p.in_channels ? weight[p.at(o, i, k)] : 0.0f;
#pragma omp for schedule(dynamic)
        for (Index b = 0; b < p.batch; b++) {
            std::memset(image, 0, sizeof(float) * padded.size());
            for (Index c = 0; c < p.out_channels; c += sorted)
                for (Index w = 0; w < windows.count(); w += together) {
                    const Index here = std::min(together, windows.count() - w);
                    Index count[together][5] = {};
                    for (Index i = 0; i < here; i++) {
                        const Index at = (b * windows.count() + w + i) * p.out_channels + c;
                        for (Index o = 0; o < std::min(sorted, p.out_channels - c); o++) {
                            const int index = argmax[at + o];
                            alive[i * lists + index * sorted + count[i][index]++] = {
                                static_cast<std::int32_t>(o * 9 * lanes), grad[at + o]};
                        }
                    }
                    for (Index v = 0; v < channels; v += lanes)
                        for (Index i = 0; i < here; i++)
                            spread(image + windows.corner(w + i) + v, padded.row(), channels,
                                   alive + i * lists, count[i], sorted,
                                   kernels + (v * p.out_channels + c * lanes) * 9);
                }
            float* to = input_grad + b * p.inputs().size();
            for (Index y = 0; y < p.height; y++)
                for (Index x = 0; x < p.width; x++, to += p.in_channels)
                    std::memcpy(to, image + (y + 1) * padded.row() + (x + 1) * channels,
                                sizeof(float) * p.in_channels);
        }
    }
    return true;
}

// The gradients of weight and bias, from that of the pooled values and their argmax.
bool conv3x3_relu_pool_weight_grad(const ConvShape& p, const float* grad, const std::int8_t* argmax,
                        const float* x, float* weight_grad, float* bias_grad) {
    const Windows windows(p.inputs());
    const Padded& padded = windows.padded;
    const Strips strips(p.in_channels);
    constexpr Index sorted = Windows::channels;
    const Index together = windows.fitting();
    // Where there are few output channels to distribute, groups of images are summed separately.
    // They affect rounding, so they depend on the shape only.
    const Index blocks = ceil_div(p.out_channels, sorted);
    const Index each = ceil_div(p.batch, ceil_div(8, blocks)), groups = ceil_div(p.batch, each);
    const Index per_thread = whole_vectors(padded.size()), weights = p.out_channels * strips.size();
    const Index sums = weights + whole_vectors(p.out_channels);  // those of the bias at the end
    const Scratch scratch(groups * sums + p.threads * per_thread);
    const Scratch memory(p.threads * sorted * together * Index(sizeof(Alive) / sizeof(float)));
    if (!scratch || !memory) return false;
    const auto right = static_cast<std::int32_t>(p.in_channels);
    const auto down = static_cast<std::int32_t>(padded.row());
    const std::int32_t offset[5] = {0, right, down, down + right, 0};
#pragma omp parallel num_threads(p.threads)
    {
        float* const image = scratch.get() + groups * sums + omp_get_thread_num() * per_thread;
        Alive* const alive =
            reinterpret_cast<Alive*>(memory.get()) + omp_get_thread_num() * sorted * together;
        // Sorts the windows of an image from `first` on by output channel, then adds them up.
        auto add = [&](Index first, Index b, Index c, Index here, float* to) {
            Index count[sorted] = {};
            for (Index w = first; w < std::min(first + together, windows.count()); w++) {
                const Index at = (b * windows.count() + w) * p.out_channels + c;
                const auto corner = static_cast<std::int32_t>(windows.corner(w));
                for (Index o = 0; o < here; o++) {
                    const int index = argmax[at + o];
                    alive[o * together + count[o]] = {corner + offset[index], grad[at + o]};
                    count[o] += index != dead;
                }
            }
            with_vectors(strips.each, [&]<int Vectors>() {
                for (Index o = 0; o < here; o++)
                    for (Index s = 0; s < strips.row(); s += Vectors * lanes)
                        gather<Vectors>(image + s, padded.row(), alive + o * together, count[o],
                                        to + (c + o) * strips.size() + s, strips.row());
            });
        };
#pragma omp for schedule(dynamic) collapse(2)
        for (Index g = 0; g < groups; g++)
            for (Index c = 0; c < p.out_channels; c += sorted) {
                const Index here = std::min(sorted, p.out_channels - c);
                float* const group_sums = scratch.get() + g * sums;
                std::fill_n(group_sums + c * strips.size(), here * strips.size(), 0.0f);
                std::fill_n(group_sums + weights + c, here, 0.0f);
                for (Index b = g * each; b < std::min((g + 1) * each, p.batch); b++) {
                    padded.fill(image, x + b * p.inputs().size());
                    const Index from = b * windows.count() * p.out_channels + c;
                    add_alive(grad + from, argmax + from, windows.count(), here, p.out_channels,
                              group_sums + weights + c);
                    for (Index first = 0; first < windows.count(); first += together)
                        add(first, b, c, here, group_sums);
                }
            }
#pragma omp for schedule(static)
        for (Index o = 0; o < p.out_channels; o++) {
            float* const total = scratch.get() + o * strips.size();
            float* const bias = scratch.get() + weights + o;
            for (Index g = 1; g < groups; g++) {
                for (Index s = 0; s < strips.size(); s += lanes)
                    store(total + s, load(total + s) + load(total + g * sums + s));
                *bias += bias[g * sums];
            }
            bias_grad[o] = *bias;
            for (Index i = 0; i < p.in_channels; i++)
                for (int k = 0; k < 9; k++)
                    weight_grad[p.at(o, i, k)] =
                        total[k / 3 * strips.row() + k % 3 * p.in_channels + i];
        }
    }
    return true;
}

}  // extern "C"
