"""3x3 convolution, bias, ReLU and 2x2 max pooling in one kernel, with its gradients.

The forward pass stores one byte per output for the backward pass: the index of the maximum within
the pooling window, or a sentinel if ReLU zeroed it. Neither the output of the convolution nor its
gradient, each four times as large, is written to memory by the Triton and C++ kernels.
"""

from mammoth_compiled.kernels.conv_relu_pool.op import (
    IMPLEMENTATIONS,
    conv_relu_pool,
    conv_relu_pool_cpp_op,
    conv_relu_pool_op,
)

__all__ = ["IMPLEMENTATIONS", "conv_relu_pool", "conv_relu_pool_cpp_op", "conv_relu_pool_op"]
