"""Launchers of the convolutions in C++: shapes and layouts of what they take and give.

Images are float32 in channels_last, weights are read and their gradients written in any layout.
"""

import torch

from mammoth_compiled.kernels.cpu.library import Problem, call
from mammoth_compiled.kernels.launch import empty_images

# With fewer input channels the sums are too short to pay for Winograd's transforms.
_FEW_CHANNELS = 16


def conv3x3(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
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
        call("conv3x3", _problem(x.shape, weight), x, weight, _row(bias, weight), y)
    return y


def input_grad(grad: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Computes the gradient of x of `conv3x3`: a convolution with the taps in reverse order.

    Args:
        grad: [B, Cout, H, W].
        weight: [Cout, Cin, 3, 3].
    """
    grad_x = empty_images((grad.shape[0], weight.shape[1], *grad.shape[2:]), grad)
    if grad.numel():
        problem = _problem(grad.shape, weight.transpose(0, 1))
        problem.flipped = 1
        call("conv3x3", problem, grad, weight, None, grad_x)
    return grad_x


def weight_grad(grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Computes the gradient of a weight of `conv3x3`, in its layout.

    Args:
        grad: [B, Cout, H, W].
        x: [B, Cin, H, W].
        weight: [Cout, Cin, 3, 3]; its values are not read.
    """
    result = torch.empty_like(weight)
    if not x.numel():
        return result.zero_()
    call("conv3x3_weight_grad", _problem(x.shape, result), x, grad, result)
    return result


def conv_relu_pool(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes pooled values and winners; see `kernels.conv_relu_pool.reference`.

    Args:
        x: [B, Cin, H, W]; H and W at least 2.
        weight: [Cout, Cin, 3, 3].
        bias: [Cout] or None.

    Raises:
        ValueError: If weight or bias have another shape or dtype.
    """
    batch, channels, height, width = x.shape
    y = empty_images((batch, weight.shape[0], height // 2, width // 2), x)
    winner = torch.empty_like(y, dtype=torch.int8)
    if y.numel():
        name = "conv3x3_relu_pool_direct" if channels < _FEW_CHANNELS else "conv3x3_relu_pool"
        call(name, _problem(x.shape, weight), x, weight, _row(bias, weight), y, winner)
    return y, winner


def pooled_input_grad(
    grad: torch.Tensor, winner: torch.Tensor, weight: torch.Tensor, size: tuple[int, int]
) -> torch.Tensor:
    """Computes the gradient of x of `conv_relu_pool`.

    Args:
        grad: Gradient of the pooled values, [B, Cout, H // 2, W // 2].
        winner: What `conv_relu_pool` gave.
        weight: [Cout, Cin, 3, 3].
        size: (H, W) of x.
    """
    grad_x = empty_images((grad.shape[0], weight.shape[1], *size), grad)
    if grad.numel():
        problem = _problem(grad_x.shape, weight)
        call("pooled_input_grad", problem, grad, winner, weight, grad_x)
    return grad_x


def pooled_weight_grad(
    grad: torch.Tensor, winner: torch.Tensor, x: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes the gradients of weight, in its layout, and bias of `conv_relu_pool`.

    Args:
        grad: Gradient of the pooled values, [B, Cout, H // 2, W // 2].
        winner: What `conv_relu_pool` gave.
        x: [B, Cin, H, W].
        weight: [Cout, Cin, 3, 3]; its values are not read.
    """
    result, bias = torch.empty_like(weight), weight.new_empty(weight.shape[0])
    if not grad.numel():
        return result.zero_(), bias.zero_()
    problem = _problem(x.shape, result)
    call("pooled_weight_grad", problem, grad, winner, x, result, bias)
    return result, bias


def _problem(images: torch.Size, weight: torch.Tensor) -> Problem:
    batch, channels, height, width = images
    if weight.dtype != torch.float32 or weight.dim() != 4 or weight.shape[1:] != (channels, 3, 3):
        raise ValueError(
            f"the weight is {weight.dtype} {list(weight.shape)}; float32 images of {channels} "
            f"channels want torch.float32 [Cout, {channels}, 3, 3]"
        )
    return Problem(batch, height, width, channels, weight.shape[0], *weight.stride())


def _row(bias: torch.Tensor | None, weight: torch.Tensor) -> torch.Tensor | None:
    """Returns a bias as C++ reads it: its numbers side by side."""
    if bias is None:
        return None
    if bias.dtype != torch.float32 or bias.shape != weight.shape[:1]:
        raise ValueError(
            f"the bias is {bias.dtype} {list(bias.shape)}; "
            f"the weight wants torch.float32 {list(weight.shape[:1])}"
        )
    return bias.contiguous()
