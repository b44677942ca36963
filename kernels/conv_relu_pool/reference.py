"""3x3 convolution, bias, ReLU and 2x2 max pooling and its gradients in plain torch."""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from mammoth_compiled.kernels.conv3x3.reference import convolution_backward
from mammoth_compiled.kernels.relu_pool import reference as relu_pool
from mammoth_compiled.kernels.runtime.layouts import channels_last, empty_images

# Window, stride and padding of the pooling.
POOL = ((2, 2), (2, 2), (0, 0))


def forward(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes pooled values and their argmax.

    Args:
        x: [B, Cin, H, W], float.
        weight: [Cout, Cin, 3, 3]; multiplied in the dtype of x.
        bias: [Cout] or None; added in the dtype of x.

    Returns:
        The pooled values, [B, Cout, H // 2, W // 2], and for each the index of the first maximum in
        its window, counted row by row, 0 to 3, or 4 if nothing is above 0, int8. Both are
        channels-last.
    """
    bias = None if bias is None else bias.to(x.dtype)
    y, argmax = relu_pool.forward(F.conv2d(x, weight.to(x.dtype), bias, padding=1), *POOL)
    return channels_last(y), channels_last(argmax.to(torch.int8))


def input_grad(
    grad: torch.Tensor, argmax: torch.Tensor, weight: torch.Tensor, size: Sequence[int]
) -> torch.Tensor:
    """Computes the gradient of x.

    Args:
        grad: Gradient of the pooled values, [B, Cout, H // 2, W // 2].
        argmax: From `forward`.
        weight: [Cout, Cin, 3, 3].
        size: (H, W) of x.

    Returns:
        [B, Cin, H, W], channels-last.
    """
    height, width = size
    x = empty_images((grad.shape[0], weight.shape[1], height, width), grad)
    return plain_gradients(unpool(grad, argmax, size), x, weight, True, False)[0]


def weight_grad(
    grad: torch.Tensor, argmax: torch.Tensor, x: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes the gradients of weight and bias.

    Args:
        grad: Gradient of the pooled values, [B, Cout, H // 2, W // 2].
        argmax: From `forward`.
        x: [B, Cin, H, W].
        weight: [Cout, Cin, 3, 3].

    Returns:
        [Cout, Cin, 3, 3] in dtype and layout of the weight, and [Cout] in its dtype.
    """
    dz = unpool(grad, argmax, x.shape[2:])
    _, grad_weight, grad_bias = plain_gradients(dz, x, weight, False, True)
    return grad_weight, grad_bias


def unpool(grad: torch.Tensor, argmax: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Computes the gradient of the convolution's result from that of the pooled values.

    Args:
        grad: Gradient of the pooled values, [B, Cout, H // 2, W // 2].
        argmax: From `forward`.
        size: (H, W) of x.

    Returns:
        [B, Cout, H, W], channels-last: zero but for the maxima of the windows.
    """
    height, width = size
    return channels_last(relu_pool.backward(grad, argmax, (height, width), *POOL))


def plain_gradients(
    dz: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    needs_input: bool,
    needs_weight: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Computes gradients from that of the convolution's result.

    Args:
        dz: [B, Cout, H, W].
        x: [B, Cin, H, W].
        weight: [Cout, Cin, 3, 3]; multiplied in the dtype of dz.
        needs_input: Whether to compute the gradient of x.
        needs_weight: Whether to compute those of weight and bias.

    Returns:
        The gradient of x, [B, Cin, H, W], channels-last; of the weight, [Cout, Cin, 3, 3], in its
        dtype and layout; of the bias, [Cout], in the dtype of the weight. Tensors without elements
        stand for those that are not needed.
    """
    mask = (needs_input, needs_weight, needs_weight)
    grads = convolution_backward(dz, x, weight.to(dz.dtype), mask)
    nothing = weight.new_empty(0)
    return (
        channels_last(grads[0]) if needs_input else x.new_empty(0),
        torch.empty_like(weight).copy_(grads[1]) if needs_weight else nothing,
        grads[2].to(weight.dtype) if needs_weight else torch.empty_like(nothing),
    )
