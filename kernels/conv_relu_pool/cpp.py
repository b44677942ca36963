"""Launchers of the C++ kernels of convolution, ReLU and pooling.

Images are float32 in channels-last. Weights are read, and their gradients written, in any layout.
"""

import torch

from mammoth_compiled.kernels.conv3x3.cpp import conv_shape, dense_bias
from mammoth_compiled.kernels.runtime.cpp_library import call
from mammoth_compiled.kernels.runtime.layouts import empty_images

# With fewer input channels the sums are too short to pay for Winograd's transforms.
_MIN_WINOGRAD_CHANNELS = 16


def forward(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes pooled values and their argmax; see `reference.forward`.

    Args:
        x: [B, Cin, H, W]; H and W at least 2.
        weight: [Cout, Cin, 3, 3].
        bias: [Cout] or None.

    Raises:
        ValueError: If weight or bias have another shape or dtype.
    """
    batch, channels, height, width = x.shape
    y = empty_images((batch, weight.shape[0], height // 2, width // 2), x)
    argmax = torch.empty_like(y, dtype=torch.int8)
    if y.numel():
        few = channels < _MIN_WINOGRAD_CHANNELS
        name = "conv3x3_relu_pool_direct" if few else "conv3x3_relu_pool"
        shape = conv_shape(x.shape, weight)
        call(name, shape, x, weight, dense_bias(bias, weight), y, argmax)
    return y, argmax


def input_grad(
    grad: torch.Tensor, argmax: torch.Tensor, weight: torch.Tensor, size: tuple[int, int]
) -> torch.Tensor:
    """Computes the gradient of x.

    Args:
        grad: Gradient of the pooled values, [B, Cout, H // 2, W // 2].
        argmax: From `forward`.
        weight: [Cout, Cin, 3, 3].
        size: (H, W) of x.
    """
    grad_x = empty_images((grad.shape[0], weight.shape[1], *size), grad)
    if grad.numel():
        shape = conv_shape(grad_x.shape, weight)
        call("conv3x3_relu_pool_input_grad", shape, grad, argmax, weight, grad_x)
    return grad_x


def weight_grad(
    grad: torch.Tensor, argmax: torch.Tensor, x: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes the gradients of the weight, in its layout, and of the bias.

    Args:
        grad: Gradient of the pooled values, [B, Cout, H // 2, W // 2].
        argmax: From `forward`.
        x: [B, Cin, H, W].
        weight: [Cout, Cin, 3, 3]; its values are not read.
    """
    result, bias = torch.empty_like(weight), weight.new_empty(weight.shape[0])
    if not grad.numel():
        return result.zero_(), bias.zero_()
    shape = conv_shape(x.shape, result)
    call("conv3x3_relu_pool_weight_grad", shape, grad, argmax, x, result, bias)
    return result, bias
