"""3x3 convolution with stride and padding 1 and its gradients in plain torch."""

import torch
from torch.nn import functional as F

from mammoth_compiled.kernels.runtime.layouts import channels_last, empty_images


def forward(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Computes `conv2d(x, weight, bias, padding=1)`.

    Args:
        x: [B, Cin, H, W], float.
        weight: [Cout, Cin, 3, 3], same dtype.
        bias: [Cout], same dtype, or None.

    Returns:
        [B, Cout, H, W], channels-last.
    """
    return channels_last(F.conv2d(x, weight, bias, padding=1))


def input_grad(grad: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Computes the gradient of x.

    Args:
        grad: Gradient of the result, [B, Cout, H, W].
        weight: [Cout, Cin, 3, 3].

    Returns:
        [B, Cin, H, W], channels-last.
    """
    x = empty_images((grad.shape[0], weight.shape[1], *grad.shape[2:]), grad)
    return channels_last(convolution_backward(grad, x, weight, (True, False, False))[0])


def weight_grad(grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Computes the gradient of the weight.

    Args:
        grad: Gradient of the result, [B, Cout, H, W].
        x: [B, Cin, H, W].
        weight: [Cout, Cin, 3, 3].

    Returns:
        [Cout, Cin, 3, 3] in the layout of the weight.
    """
    result = convolution_backward(grad, x, weight, (False, True, False))[1]
    return torch.empty_like(weight).copy_(result)


def convolution_backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, output_mask: tuple[bool, bool, bool]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the gradients of x, weight and bias from ATen; None where the mask is False.

    Args:
        grad: Gradient of the result, [B, Cout, H, W].
        x: [B, Cin, H, W].
        weight: [Cout, Cin, 3, 3].
        output_mask: Which of the three to compute.
    """
    ones, zeros = [1, 1], [0, 0]
    grads: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = torch.ops.aten.convolution_backward(
        grad, x, weight, [weight.shape[0]], ones, ones, ones, False, zeros, 1, output_mask
    )
    return grads
