// The gradients of 3x3 convolution, relu and 2x2 pooling.
//
// Of the four pixels of a window at most one has a gradient: the sums go over those that do, with
// all input channels of three pixels side by side. The order of a sum never depends on the number
// of threads. Functions return whether they had the memory they needed.

#include "conv_relu_pool/padded.hpp"
#include "conv_relu_pool/pool.hpp"
#include "conv3x3/conv_shape.hpp"
#include "runtime/vectors.hpp"

namespace {

// What is worked on at a time, bytes: most of a first-level cache of 32 KiB.
constexpr Index near = 20 * 1024;

// The three pixels of a row of the kernel, of all input channels, cut into strips of registers.
struct Strips {
    // Three rows of a strip are in registers at once.
    static constexpr int most = lanes == 16 ? 8 : 4;
    Index vectors, count, each;

    explicit Strips(Index channels)
        : vectors(ceil_div(3 * channels, lanes)),
          count(ceil_div(vectors, most)),
          each(ceil_div(vectors, count)) {}
    Index row() const { return count * each * lanes; }
    Index size() const { return 3 * row(); }
};

// A gradient, and the number of what it came from.
struct Alive {
    std::int32_t from;
    float grad;
};

// The windows of an image, whose gradients are sorted before use: loops over those of one kind are
// as long as they can be, without a branch.
struct Windows {
    static constexpr Index channels = lanes == 16 ? 32 : 16;  // output channels sorted together
    Index rows, columns;
    Padded padded;

    explicit Windows(const Images& images)
        : rows(images.height / 2), columns(images.width / 2), padded(images) {}
    Index count() const { return rows * columns; }
    // Where the first of a window's 4x4 pixels lies in the image with a border.
    Index corner(Index window) const {
        return 2 * (window / columns * padded.row() + window % columns * padded.channels);
    }
    // Windows whose pixels are near together.
    Index at_once() const {
        const Index fit = near / Index(sizeof(float)) / (2 * padded.row());
        return std::min<Index>(std::clamp<Index>(fit - 1, 1, rows) * columns, 64);
    }
};

// sums[3 rows] += gradient * the pixels it came from, for one strip.
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
    if constexpr (Vectors <= 2) {  // few sums would wait for each other
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
// `alive` has the gradients of each of the four pixels that can have won, `most` apart.
inline void spread(float* pixels, Index line, Index step, const Alive* alive, const Index* count,
                   Index most, const float* kernels) {
    Vector sum[4][4] = {};
#pragma GCC unroll 4
    for (int who = 0; who < 4; who++)
        for (Index n = 0; n < count[who]; n++) {
            const float* kernel = kernels + alive[who * most + n].from;
            const float grad = alive[who * most + n].grad;
#pragma GCC unroll 9
            for (int k = 0; k < 9; k++)
                sum[who / 2 + k / 3][who % 2 + k % 3] += grad * load(kernel + k * lanes);
        }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            float* pixel = pixels + i * line + j * step;
            store(pixel, load(pixel) + sum[i][j]);
        }
}

// bias += the gradients that are alive, of all windows and of `here` channels, `all` apart.
void add_alive(const float* grad, const std::int8_t* winner, Index windows, Index here, Index all,
               float* bias) {
    for (Index c = 0; c < here; c += lanes) {
        const Index n = std::min<Index>(lanes, here - c);
        Vector sum{};
        for (Index at = c; at < windows * all; at += all) {
            Bytes who{};
            std::memcpy(&who, winner + at, n);
            const Integers number = __builtin_convertvector(who, Integers);
            sum += number != dead ? load(grad + at, n) : Vector{};
        }
        store(bias + c, load(bias + c, n) + sum, n);
    }
}

// Calls f.operator()<vectors>(), for 1 to Strips::most.
template <class F, int Vectors = 1>
void with_vectors(Index vectors, F f) {
    if (vectors == Vectors)
        f.template operator()<Vectors>();
    else if constexpr (Vectors < Strips::most)
        with_vectors<F, Vectors + 1>(vectors, f);
}

}  // namespace

extern "C" {

// The gradient of the images, from that of the pooled values and who won.
bool conv3x3_relu_pool_input_grad(const ConvShape& p, const float* grad, const std::int8_t* winner,
                       const float* weight, float* input_grad) {
    // In memory of its own an image has whole vectors of channels.
    const Index channels = whole_vectors(p.in_channels);
    const Windows windows({p.batch, p.height, p.width, channels});
    const Padded& padded = windows.padded;
    constexpr Index sorted = Windows::channels, together = 16, lists = 5 * sorted;
    const Index kernels_size = 9 * channels * p.out_channels;
    const Index own = whole_vectors(padded.size());
    const Scratch scratch(kernels_size + p.threads * own);
    const Scratch memory(p.threads * together * lists * Index(sizeof(Alive) / sizeof(float)));
    if (!scratch || !memory) return false;
    // [vector of input channels][output channel][tap]
    float* const kernels = scratch.get();
#pragma omp parallel num_threads(p.threads)
    {
        float* const image = kernels + kernels_size + omp_get_thread_num() * own;
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
                            const int who = winner[at + o];
                            alive[i * lists + who * sorted + count[i][who]++] = {
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

// The gradients of weight and bias, from that of the pooled values and who won.
bool conv3x3_relu_pool_weight_grad(const ConvShape& p, const float* grad, const std::int8_t* winner,
                        const float* x, float* weight_grad, float* bias_grad) {
    const Windows windows(p.inputs());
    const Padded& padded = windows.padded;
    const Strips strips(p.in_channels);
    constexpr Index sorted = Windows::channels;
    const Index together = windows.at_once();
    // Groups of images are summed apart where there are few output channels to share out. They make
    // the result, so they depend on the problem only.
    const Index blocks = ceil_div(p.out_channels, sorted);
    const Index each = ceil_div(p.batch, ceil_div(8, blocks)), groups = ceil_div(p.batch, each);
    const Index own = whole_vectors(padded.size()), weights = p.out_channels * strips.size();
    const Index sums = weights + whole_vectors(p.out_channels);  // then those of the bias
    const Scratch scratch(groups * sums + p.threads * own);
    const Scratch memory(p.threads * sorted * together * Index(sizeof(Alive) / sizeof(float)));
    if (!scratch || !memory) return false;
    const auto right = static_cast<std::int32_t>(p.in_channels);
    const auto down = static_cast<std::int32_t>(padded.row());
    const std::int32_t offset[5] = {0, right, down, down + right, 0};
#pragma omp parallel num_threads(p.threads)
    {
        float* const image = scratch.get() + groups * sums + omp_get_thread_num() * own;
        Alive* const alive =
            reinterpret_cast<Alive*>(memory.get()) + omp_get_thread_num() * sorted * together;
        // The windows from `first` on of an image, sorted by output channel, then added up.
        auto add = [&](Index first, Index b, Index c, Index here, float* to) {
            Index count[sorted] = {};
            for (Index w = first; w < std::min(first + together, windows.count()); w++) {
                const Index at = (b * windows.count() + w) * p.out_channels + c;
                const auto corner = static_cast<std::int32_t>(windows.corner(w));
                for (Index o = 0; o < here; o++) {
                    const int who = winner[at + o];
                    alive[o * together + count[o]] = {corner + offset[who], grad[at + o]};
                    count[o] += who != dead;
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
                float* const mine = scratch.get() + g * sums;
                std::fill_n(mine + c * strips.size(), here * strips.size(), 0.0f);
                std::fill_n(mine + weights + c, here, 0.0f);
                for (Index b = g * each; b < std::min((g + 1) * each, p.batch); b++) {
                    padded.fill(image, x + b * p.inputs().size());
                    const Index from = b * windows.count() * p.out_channels + c;
                    add_alive(grad + from, winner + from, windows.count(), here, p.out_channels,
                              mine + weights + c);
                    for (Index first = 0; first < windows.count(); first += together)
                        add(first, b, c, here, mine);
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
