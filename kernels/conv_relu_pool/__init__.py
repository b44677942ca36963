"""3x3 convolution, bias, ReLU and 2x2 max pooling in one kernel, with its gradients.

The forward pass stores one byte per output for the backward pass: the index of the maximum within
the pooling window, or a sentinel if ReLU zeroed it. The output of the convolution, four times as
large, is not written to memory by the Triton and C++ kernels. Neither is its gradient, except by
the implementation "unpooled", which suits gradients that stay in the cache of a GPU.
"""

from mammoth_compiled.kernels.conv_relu_pool.op import (
    IMPLEMENTATIONS,
    conv_relu_pool,
    conv_relu_pool_cpp_op,
    conv_relu_pool_op,
    conv_relu_pool_unpooled_op,
)

__all__ = [
    "IMPLEMENTATIONS",
    "conv_relu_pool",
    "conv_relu_pool_cpp_op",
    "conv_relu_pool_op",
    "conv_relu_pool_unpooled_op",
]
