"""Launchers of the C++ kernels of 3x3 convolution.

Images are float32 in channels-last. Weights are read, and their gradients written, in any layout.
"""

import ctypes

import torch

from mammoth_compiled.kernels.runtime.cpp_library import call
from mammoth_compiled.kernels.runtime.layouts import empty_images


class ConvShape(ctypes.Structure):
    """Sizes and weight strides of a 3x3 convolution; see `conv_shape.hpp`."""

    _fields_ = [
        *((size, ctypes.c_int64) for size in ("batch", "height", "width")),
        *((size, ctypes.c_int64) for size in ("in_channels", "out_channels")),
        *((f"stride_{axis}", ctypes.c_int64) for axis in ("out", "in", "row", "column")),
        ("flipped", ctypes.c_int32),
        ("threads", ctypes.c_int32),
    ]

    threads: int


def forward(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Computes `conv2d(x, weight, bias, padding=1)`.

    Args:
        x: [B, Cin, H, W].
        weight: [Cout, Cin, 3, 3].
        bias: [Cout] or None.

    Raises:
        ValueError: If weight or bias have another shape or dtype.
    """
    y = empty_images((x.shape[0], weight.shape[0], *x.shape[2:]), x)
    if y.numel():
        call("conv3x3", conv_shape(x.shape, weight), x, weight, dense_bias(bias, weight), y)
    return y


def input_grad(grad: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Computes the gradient of x: a convolution of `grad` with the taps in reverse order.

    Args:
        grad: Gradient of the result, [B, Cout, H, W].
        weight: [Cout, Cin, 3, 3].
    """
    grad_x = empty_images((grad.shape[0], weight.shape[1], *grad.shape[2:]), grad)
    if grad.numel():
        shape = conv_shape(grad.shape, weight.transpose(0, 1))
        shape.flipped = 1
        call("conv3x3", shape, grad, weight, None, grad_x)
    return grad_x


def weight_grad(grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Computes the gradient of the weight, in its layout.

    Args:
        grad: Gradient of the result, [B, Cout, H, W].
        x: [B, Cin, H, W].
        weight: [Cout, Cin, 3, 3]; its values are not read.
    """
    result = torch.empty_like(weight)
    if not x.numel():
        return result.zero_()
    call("conv3x3_weight_grad", conv_shape(x.shape, result), x, grad, result)
    return result


def conv_shape(images: torch.Size, weight: torch.Tensor) -> ConvShape:
    """Returns the sizes of a convolution of `images`, [B, Cin, H, W], with the weight's strides.

    Raises:
        ValueError: If the weight has another shape or dtype.
    """
    batch, channels, height, width = images
    if weight.dtype != torch.float32 or weight.dim() != 4 or weight.shape[1:] != (channels, 3, 3):
        raise ValueError(
            f"the weight is {weight.dtype} {list(weight.shape)}; float32 images of {channels} "
            f"channels need torch.float32 [Cout, {channels}, 3, 3]"
        )
    return ConvShape(batch, height, width, channels, weight.shape[0], *weight.stride())


def dense_bias(bias: torch.Tensor | None, weight: torch.Tensor) -> torch.Tensor | None:
    """Returns a bias with stride 1, as the C++ kernels read it.

    Raises:
        ValueError: If the bias has another shape or dtype than the weight needs.
    """
    if bias is None:
        return None
    if bias.dtype != torch.float32 or bias.shape != weight.shape[:1]:
        raise ValueError(
            f"the bias is {bias.dtype} {list(bias.shape)}; "
            f"the weight needs torch.float32 {list(weight.shape[:1])}"
        )
    return bias.contiguous()
