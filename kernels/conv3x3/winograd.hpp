// The transforms of Winograd's F(2x2, 3x3): Lavin and Gray 2016, arXiv 1509.09308, section 4.1.
//
// Images are divided into tiles of 2x2 results, which depend on 4x4 pixels. A tile is transformed
// to 16 values per channel, for which the convolution is 16 matrix multiplications. Tile t of an image
// lies in row t / columns; its pixels begin one before 2 * row, since the padding is 1.

#pragma once

#include "conv3x3/conv_shape.hpp"
#include "runtime/vectors.hpp"

namespace {

// 16 matrices [count, channels], one per transformed value of a tile.
struct Planes {
    float* at;
    Index row, plane;

    // Rows of a multiple of 256 bytes would compete for few sets of the cache.
    static Index row_for(Index channels) {
        const Index row = whole_vectors(channels);
        return row % 64 ? row : row + lanes;
    }
    static Index plane_for(Index count, Index row) { return count * row + lanes; }
};

struct Tiles {
    Images images;
    Index rows, columns;

    // Tiles of all pixels, or of complete 2x2 windows only.
    static Tiles of(Images images, bool whole_windows) {
        const Index more = whole_windows ? 0 : 1;
        return {images, (images.height + more) / 2, (images.width + more) / 2};
    }
    Index count() const { return images.batch * rows * columns; }
    Index image(Index tile) const { return tile / (rows * columns); }
    Index row(Index tile) const { return tile / columns % rows; }
    Index column(Index tile) const { return tile % columns; }
    // Offset of the first pixel of the tile's results.
    Index pixel(Index tile) const {
        const Index line = image(tile) * images.height + 2 * row(tile);
        return (line * images.width + 2 * column(tile)) * images.channels;
    }
};

inline void input_transform(Vector& a, Vector& b, Vector& c, Vector& d) {
    const Vector first = a - c, second = b + c, third = c - b, fourth = b - d;
    a = first;
    b = second;
    c = third;
    d = fourth;
}

// Transforms `count` tiles of images beginning with `first`, channels from `from` on: B^T d B.
void transform_images(const float* images, const Tiles& tiles, Index first, Index count, Planes to,
                      Index from, Index channels) {
    const Images& size = tiles.images;
    images += from;
    alignas(64) static constexpr float zeros[lanes] = {};
    for (Index t = 0; t < count; t++) {
        const Index tile = first + t, top = 2 * tiles.row(tile) - 1;
        const Index left = 2 * tiles.column(tile) - 1;
        const float* pixel[16];
        Index inside[16];
        for (int k = 0; k < 16; k++) {
            const Index y = top + k / 4, x = left + k % 4;
            inside[k] = y >= 0 && y < size.height && x >= 0 && x < size.width;
            const Index line = tiles.image(tile) * size.height + y;
            pixel[k] = inside[k] ? images + (line * size.width + x) * size.channels : zeros;
        }
        float* out = to.at + t * to.row;
        for (Index c = 0; c < channels; c += lanes, out += lanes) {
            Vector d[16];
            if (c + lanes <= channels) {
#pragma GCC unroll 16
                for (int k = 0; k < 16; k++) d[k] = load(pixel[k] + c * inside[k]);
            } else {
                for (int k = 0; k < 16; k++) d[k] = load(pixel[k] + c * inside[k], channels - c);
            }
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) input_transform(d[j], d[4 + j], d[8 + j], d[12 + j]);
#pragma GCC unroll 4
            for (int i = 0; i < 16; i += 4) input_transform(d[i], d[i + 1], d[i + 2], d[i + 3]);
#pragma GCC unroll 16
            for (int k = 0; k < 16; k++) store(out + k * to.plane, d[k]);
        }
    }
}

// Computes the four results of a tile for one vector of channels: A^T m A.
inline void transform_results(const float* from, Index plane, Vector z[4]) {
    Vector m[16], u[8];
#pragma GCC unroll 16
    for (int k = 0; k < 16; k++) m[k] = load(from + k * plane);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        u[j] = m[j] + m[4 + j] + m[8 + j];
        u[4 + j] = m[4 + j] - m[8 + j] - m[12 + j];
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        z[2 * i] = u[4 * i] + u[4 * i + 1] + u[4 * i + 2];
        z[2 * i + 1] = u[4 * i + 1] - u[4 * i + 2] - u[4 * i + 3];
    }
}

// Transforms tiles of the gradient of results, which act as 2x2 kernels: G g G^T of F(3x3, 2x2).
void transform_gradients(const float* gradients, const Tiles& tiles, Index first, Index count,
                         Planes to) {
    const Images& size = tiles.images;
    for (Index t = 0; t < count; t++) {
        const Index tile = first + t;
        const bool below = 2 * tiles.row(tile) + 1 < size.height;
        const bool beside = 2 * tiles.column(tile) + 1 < size.width;
        const float* from = gradients + tiles.pixel(tile);
        float* out = to.at + t * to.row;
        for (Index c = 0; c < size.channels; c += lanes, out += lanes) {
            const Index n = size.channels - c;
            const float *right = from + c + size.channels, *down = from + c + size.row();
            Vector z[4] = {load(from + c, n), {}, {}, {}};
            if (beside) z[1] = load(right, n);
            if (below) z[2] = load(down, n);
            if (below && beside) z[3] = load(down + size.channels, n);
            Vector u[8];
#pragma GCC unroll 2
            for (int j = 0; j < 2; j++) {
                u[j] = z[j];
                u[2 + j] = (z[j] + z[2 + j]) * 0.5f;
                u[4 + j] = (z[j] - z[2 + j]) * 0.5f;
                u[6 + j] = z[2 + j];
            }
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                const Vector a = u[2 * i], b = u[2 * i + 1];
                float* row = out + 4 * i * to.plane;
                store(row, a);
                store(row + to.plane, (a + b) * 0.5f);
                store(row + 2 * to.plane, (a - b) * 0.5f);
                store(row + 3 * to.plane, b);
            }
        }
    }
}

inline void kernel_transform(Vector a, Vector b, Vector c, Vector to[4]) {
    const Vector ends = (a + c) * 0.5f, middle = b * 0.5f;
    to[0] = a;
    to[1] = ends + middle;
    to[2] = ends - middle;
    to[3] = c;
}

// Transforms the weight of `lanes` output channels from `out` on and `count` input channels from
// `in` on: G g G^T, stored at to + plane * value + row * input channel.
template <int Most>
void transform_weight(const float* weight, const ConvShape& shape, Index out, Index in, Index count,
                      float* to, Index row, Index plane) {
    // Reads all taps of an input channel, which are contiguous in the usual layout.
    alignas(64) float taps[Most][9][lanes] = {};
    const Index width = std::min<Index>(lanes, shape.out_channels - out);
    Index offset[9];
    for (int k = 0; k < 9; k++) offset[k] = shape.at(0, 0, k);
    for (Index l = 0; l < width; l++)
        for (Index i = 0; i < count; i++) {
            const float* from = weight + (out + l) * shape.stride_out + (in + i) * shape.stride_in;
            for (int k = 0; k < 9; k++) taps[i][k][l] = from[offset[k]];
        }
    for (Index i = 0; i < count; i++, to += row) {
        Vector half[3][4], whole[4];
#pragma GCC unroll 3
        for (int j = 0; j < 3; j++)
            kernel_transform(load(taps[i][j]), load(taps[i][3 + j]), load(taps[i][6 + j]), half[j]);
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) {
            kernel_transform(half[0][k], half[1][k], half[2][k], whole);
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) store(to + (4 * k + j) * plane, whole[j]);
        }
    }
}

// Computes the nine taps of the weight gradient for one vector of output channels: A^T m A of
// F(3x3, 2x2).
inline void transform_weight_gradient(const Vector m[16], Vector taps[9]) {
    Vector u[12];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        u[j] = m[j] + m[4 + j] + m[8 + j];
        u[4 + j] = m[4 + j] - m[8 + j];
        u[8 + j] = m[4 + j] + m[8 + j] - m[12 + j];
    }
#pragma GCC unroll 3
    for (int i = 0; i < 3; i++) {
        const Vector* row = u + 4 * i;
        taps[3 * i] = row[0] + row[1] + row[2];
        taps[3 * i + 1] = row[1] - row[2];
        taps[3 * i + 2] = row[1] + row[2] - row[3];
    }
}

}  // namespace
