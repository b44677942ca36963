"""3x3 convolution with stride and padding 1, with C++ kernels for CPUs.

The C++ kernels use Winograd's F(2x2, 3x3), which does 2.25x fewer multiplications than a direct
convolution and adds up shorter sums. A non-finite pixel turns every output of its 2x2 tiles into
NaN, not only the outputs that depend on it.

Source: Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", arXiv 1509.09308.
"""

from mammoth_compiled.kernels.conv3x3.op import (
    IMPLEMENTATIONS,
    conv3x3,
    conv3x3_op,
    input_grad_op,
    weight_grad_op,
)

__all__ = ["IMPLEMENTATIONS", "conv3x3", "conv3x3_op", "input_grad_op", "weight_grad_op"]
