"""3x3 convolution, bias, relu and 2x2 max pooling in one: reference and operators.

Between forward and backward only the pooled size is kept: one byte per pooled value says which
pixel of its window won, or that relu cut it off. Neither what the convolution gives nor its
gradient, four times as large, is written to memory by the Triton kernels.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from mammoth_compiled.kernels import conv3x3, relu_pool
from mammoth_compiled.kernels.cpu import convolution as cpu
from mammoth_compiled.kernels.launch import (
    KERNEL_DTYPES,
    channels_last,
    empty_images,
    input_precision,
    on_cpu,
    on_gpu,
    opaque_operator,
    operator,
)
from mammoth_compiled.kernels.problem import Work

_POOL = ((2, 2), (2, 2), (0, 0))


def conv_relu_pool(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Computes `max_pool2d(relu(conv2d(x, weight, bias, padding=1)), 2)`, or relu after the pool.

    Under autocast the arguments are cast as for a convolution. Differentiable; a NaN is passed on,
    and gets no gradient. Fastest with a weight in channels_last; its gradient gets its layout.

    Args:
        x: [B, Cin, H, W], float, best in channels_last; H and W at least 2.
        weight: [Cout, Cin, 3, 3], same dtype.
        bias: [Cout], same dtype, or None.

    Returns:
        [B, Cout, H // 2, W // 2], in channels_last.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x, weight = x.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    # Here and not only in the operator, so that the backward gets it in this layout too.
    y: torch.Tensor = conv_relu_pool_op(channels_last(x), weight, bias)[0]
    return y


def reference(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes pooled values and winners in plain torch.

    Args:
        x: [B, Cin, H, W], float.
        weight: [Cout, Cin, 3, 3], same dtype.
        bias: [Cout] or None.

    Returns:
        The pooled values, [B, Cout, H // 2, W // 2], and who won: 0 to 3 for the first pixel of the
        window, along rows, that has the value, 4 where nothing is above 0; int8. Both in
        channels_last.
    """
    y, winner = relu_pool.reference(F.conv2d(x, weight, bias, padding=1), *_POOL)
    return channels_last(y), channels_last(winner.to(torch.int8))


def reference_input_grad(
    grad: torch.Tensor, winner: torch.Tensor, weight: torch.Tensor, size: Sequence[int]
) -> torch.Tensor:
    """Computes the gradient of x in plain torch.

    Args:
        grad: Gradient of the pooled values, [B, Cout, H // 2, W // 2].
        winner: What `reference` gave.
        weight: [Cout, Cin, 3, 3].
        size: (H, W) of x.

    Returns:
        [B, Cin, H, W], in channels_last.
    """
    height, width = size
    x = empty_images((grad.shape[0], weight.shape[1], height, width), grad)
    return channels_last(_convolution_backward(grad, winner, x, weight, (True, False, False))[0])


def reference_weight_grad(
    grad: torch.Tensor, winner: torch.Tensor, x: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes the gradients of weight and bias in plain torch.

    Args:
        grad: Gradient of the pooled values, [B, Cout, H // 2, W // 2].
        winner: What `reference` gave.
        x: [B, Cin, H, W].
        weight: [Cout, Cin, 3, 3].

    Returns:
        [Cout, Cin, 3, 3] in the layout of the weight, and [Cout].
    """
    _, *grads = _convolution_backward(grad, winner, x, weight, (False, True, True))
    return torch.empty_like(weight).copy_(grads[0]), grads[1]


def _convolution_backward(
    grad: torch.Tensor,
    winner: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    wanted: tuple[bool, bool, bool],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the gradients of x, weight and bias that are wanted, None for the others."""
    size = (x.shape[2], x.shape[3])
    dz = relu_pool.reference_backward(grad, winner, size, *_POOL)
    return conv3x3.backward_of_torch(dz, x, weight, wanted)


@operator("conv_relu_pool")
def conv_relu_pool_op(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes what `reference` does, with Triton on a GPU."""
    x = channels_last(x)
    if _has_kernel(x):
        from mammoth_compiled.kernels.gpu import conv_relu_pool as gpu

        return gpu.forward(x, weight, bias, input_precision(x.dtype, convolution=True))
    return reference(x, weight, bias)


@operator("conv_relu_pool_input_grad")
def input_grad_op(
    grad: torch.Tensor, winner: torch.Tensor, weight: torch.Tensor, size: Sequence[int]
) -> torch.Tensor:
    """Computes what `reference_input_grad` does, with Triton on a GPU."""
    grad = channels_last(grad)
    if _has_kernel(grad):
        from mammoth_compiled.kernels.gpu import conv_relu_pool as gpu

        height, width = size
        precision = input_precision(grad.dtype, convolution=True)
        return gpu.input_grad(grad, winner, weight, (height, width), precision)
    return reference_input_grad(grad, winner, weight, size)


@operator("conv_relu_pool_weight_grad")
def weight_grad_op(
    grad: torch.Tensor, winner: torch.Tensor, x: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes what `reference_weight_grad` does, with Triton on a GPU."""
    grad, x = channels_last(grad), channels_last(x)
    if _has_kernel(x):
        from mammoth_compiled.kernels.gpu import conv_relu_pool as gpu

        precision = input_precision(x.dtype, convolution=True)
        return gpu.weight_grad(grad, winner, x, weight, precision)
    return reference_weight_grad(grad, winner, x, weight)


@opaque_operator("conv_relu_pool_cpu")
def conv_relu_pool_cpu_op(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes what `reference` does, in C++ on a CPU that has it."""
    if on_cpu(x):
        return cpu.conv_relu_pool(channels_last(x), weight, bias)
    return reference(x, weight, bias)


@opaque_operator("conv_relu_pool_cpu_input_grad")
def input_grad_cpu_op(
    grad: torch.Tensor, winner: torch.Tensor, weight: torch.Tensor, size: Sequence[int]
) -> torch.Tensor:
    """Computes what `reference_input_grad` does, in C++ on a CPU that has it."""
    if on_cpu(grad):
        height, width = size
        grad, winner = channels_last(grad), channels_last(winner)
        return cpu.pooled_input_grad(grad, winner, weight, (height, width))
    return reference_input_grad(grad, winner, weight, size)


@opaque_operator("conv_relu_pool_cpu_weight_grad")
def weight_grad_cpu_op(
    grad: torch.Tensor, winner: torch.Tensor, x: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes what `reference_weight_grad` does, in C++ on a CPU that has it."""
    if on_cpu(grad):
        grad, winner, x = channels_last(grad), channels_last(winner), channels_last(x)
        return cpu.pooled_weight_grad(grad, winner, x, weight)
    return reference_weight_grad(grad, winner, x, weight)


@conv_relu_pool_cpu_op.register_fake
@conv_relu_pool_op.register_fake
def _fake(x: Any, weight: Any, bias: Any) -> tuple[torch.Tensor, torch.Tensor]:
    batch, _, height, width = x.shape
    y = empty_images((batch, weight.shape[0], height // 2, width // 2), x)
    return y, torch.empty_like(y, dtype=torch.int8)


@input_grad_cpu_op.register_fake
@input_grad_op.register_fake
def _fake_input_grad(grad: Any, winner: Any, weight: Any, size: Any) -> torch.Tensor:
    return empty_images((grad.shape[0], weight.shape[1], *size), grad)


@weight_grad_cpu_op.register_fake
@weight_grad_op.register_fake
def _fake_weight_grad(
    grad: Any, winner: Any, x: Any, weight: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(weight), weight.new_empty(weight.shape[0])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    x, weight, bias = inputs
    ctx.save_for_backward(x, weight, output[1])
    ctx.has_bias = bias is not None


def _backward_by(input_grad: Any, weight_grad: Any) -> Callable[..., Any]:
    def backward(ctx: Any, grad: torch.Tensor, _: Any) -> tuple[torch.Tensor | None, ...]:
        x, weight, winner = ctx.saved_tensors
        grad = relu_pool.stored_channels_last(grad)  # once, for both
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = input_grad(grad, winner, weight, tuple(x.shape[2:]))
        if any(ctx.needs_input_grad[1:]):
            grad_weight, grad_bias = weight_grad(grad, winner, x, weight)
        return grad_x, grad_weight, grad_bias if ctx.has_bias else None

    return backward


conv_relu_pool_op.register_autograd(
    _backward_by(input_grad_op, weight_grad_op), setup_context=_setup
)
conv_relu_pool_cpu_op.register_autograd(
    _backward_by(input_grad_cpu_op, weight_grad_cpu_op), setup_context=_setup
)


def work(
    shape: Sequence[int],
    out_channels: int,
    dtype: torch.dtype,
    *,
    backward: bool = False,
    input_grad: bool = True,
) -> Work:
    """Returns what the fused form needs at least, each tensor moved once; weights not counted.

    Args:
        shape: (B, Cin, H, W) of x.
        out_channels: Cout.
        dtype: Of x.
        backward: Count the gradients of x and weight, instead of the forward.
        input_grad: Whether the backward computes the gradient of x.
    """
    batch, in_channels, height, width = shape
    pixels = math.prod(shape) * dtype.itemsize
    # Pooled values with their winners.
    pooled = batch * out_channels * (height // 2) * (width // 2) * (dtype.itemsize + 1)
    operations = 2 * 9 * in_channels * out_channels * batch * height * width
    passes = 1 + (backward and input_grad)
    return Work(bytes_moved=passes * (pixels + pooled), operations=passes * operations)


def _has_kernel(x: torch.Tensor) -> bool:
    return on_gpu(x) and x.dtype in KERNEL_DTYPES
