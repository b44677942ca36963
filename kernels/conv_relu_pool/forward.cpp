// 3x3 convolution, ReLU and 2x2 max pooling by Winograd's F(2x2, 3x3).

#include "conv3x3/conv_shape.hpp"
#include "conv3x3/convolve.hpp"
#include "conv_relu_pool/pool.hpp"
#include "runtime/vectors.hpp"

extern "C" {

// y = max_pool2d(relu(conv2d(x, weight, bias, padding=1)), 2) and its argmax; bias may be null.
bool conv3x3_relu_pool(const ConvShape& p, const float* x, const float* weight, const float* bias,
                       float* y, std::int8_t* argmax) {
    const Tiles tiles = Tiles::of(p.inputs(), true);
    return convolve(p, x, tiles, weight, [=, &p](Vector z[4], Index tile, Index c) {
        const Index n = p.out_channels - c, at = tile * p.out_channels + c;
        store_pooled(z, bias ? load(bias + c, n) : Vector{}, y + at, argmax + at, n);
    });
}

}  // extern "C"
