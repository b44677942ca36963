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
        weight: [Cout, Cin, 3, 3], same dtype.
        bias: [Cout] or None.

    Returns:
        The pooled values, [B, Cout, H // 2, W // 2], and for each the index of the first maximum in
        its window, counted row by row, 0 to 3, or 4 if nothing is above 0, int8. Both are
        channels-last.
    """
    y, argmax = relu_pool.forward(F.conv2d(x, weight, bias, padding=1), *POOL)
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
    return channels_last(_backward(grad, argmax, x, weight, (True, False, False))[0])


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
        [Cout, Cin, 3, 3] in the layout of the weight, and [Cout].
    """
    _, *grads = _backward(grad, argmax, x, weight, (False, True, True))
    return torch.empty_like(weight).copy_(grads[0]), grads[1]


def _backward(
    grad: torch.Tensor,
    argmax: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    output_mask: tuple[bool, bool, bool],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the gradients of x, weight and bias; None where the mask is False."""
    grad_conv = relu_pool.backward(grad, argmax, (x.shape[2], x.shape[3]), *POOL)
    return convolution_backward(grad_conv, x, weight, output_mask)
