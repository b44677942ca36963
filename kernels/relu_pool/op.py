"""ReLU and max pooling: the operators and their implementations."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from mammoth_compiled.kernels.relu_pool import reference
from mammoth_compiled.kernels.relu_pool.reference import MAX_WINDOW_SIZE, Pair
from mammoth_compiled.kernels.runtime.device import triton_why_not
from mammoth_compiled.kernels.runtime.implementations import Implementation
from mammoth_compiled.kernels.runtime.layouts import (
    channels_last,
    empty_images,
    force_channels_last,
)
from mammoth_compiled.kernels.runtime.operators import traced_operator


def relu_pool(z: torch.Tensor, window: Pair) -> torch.Tensor:
    """Computes `max_pool2d(relu(z), window)` on a CPU, or the same with ReLU after the pool.

    The stride is the window; rows and columns that do not fill a window are dropped. A NaN is
    passed on and gets no gradient.

    Args:
        z: [B, C, H, W], float, fastest in channels-last.
        window: (height, width), together at most MAX_WINDOW_SIZE elements.

    Returns:
        [B, C, H // height, W // width], channels-last.
    """
    result: torch.Tensor = _ReluPool.apply(z, window)
    return result


class _ReluPool(torch.autograd.Function):
    """The reference in the form from which Inductor generates the fastest code on CPUs.

    The argmax is bfloat16, which is exact up to 256. Comparisons then stay among floats, since byte
    masks are not vectorized on AVX2, and two bytes are little enough for the partitioner to save
    the argmax instead of a mask per window element. It is saved as a matrix, [B * OH * OW, C]:
    Inductor treats four-dimensional tensors as images and would change their layout.
    """

    @staticmethod
    def forward(ctx: Any, z: torch.Tensor, window: Pair) -> torch.Tensor:
        y, argmax = reference.forward(z, window, window, (0, 0))
        flat = argmax.permute(0, 2, 3, 1).to(torch.bfloat16).reshape(-1, z.shape[1])
        ctx.save_for_backward(flat)
        ctx.size, ctx.window = tuple(z.shape[2:]), window
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        (argmax,) = ctx.saved_tensors
        grad = force_channels_last(grads[0])
        batch, channels, rows, columns = grad.shape
        flat = batch * rows, columns, channels
        return reference.backward_disjoint(
            grad.permute(0, 2, 3, 1).reshape(flat),
            argmax.view(flat).to(grad.dtype),
            batch,
            ctx.size,
            ctx.window,
        ), None


@traced_operator("relu_pool")
def relu_pool_op(
    z: torch.Tensor, window: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes `reference.forward`, with Triton on a GPU; the argmax is int8."""
    sizes = (_pair(window), _pair(stride), _pair(padding))
    z = channels_last(z)
    if triton_why_not(z):
        y, argmax = reference.forward(z, *sizes)
        return channels_last(y), channels_last(argmax.to(torch.int8))
    from mammoth_compiled.kernels.relu_pool import triton

    return triton.forward(z, *sizes)


@traced_operator("relu_pool_backward")
def relu_pool_backward_op(
    grad: torch.Tensor,
    argmax: torch.Tensor,
    size: Sequence[int],
    window: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
) -> torch.Tensor:
    """Computes `reference.backward`, with Triton on a GPU."""
    sizes = (_pair(size), _pair(window), _pair(stride), _pair(padding))
    grad = channels_last(grad)
    if triton_why_not(grad):
        return channels_last(reference.backward(grad, argmax, *sizes))
    from mammoth_compiled.kernels.relu_pool import triton

    return triton.backward(grad, argmax, *sizes)


@relu_pool_op.register_fake
def _fake(z: Any, window: Any, stride: Any, padding: Any) -> tuple[torch.Tensor, torch.Tensor]:
    rows, columns = (
        (z.shape[2 + k] + 2 * padding[k] - window[k]) // stride[k] + 1 for k in range(2)
    )
    y = empty_images((z.shape[0], z.shape[1], rows, columns), z)
    return y, torch.empty_like(y, dtype=torch.int8)


@relu_pool_backward_op.register_fake
def _fake_backward(grad: Any, argmax: Any, size: Any, *_: Any) -> torch.Tensor:
    return empty_images((*grad.shape[:2], *size), grad)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    z, *ctx.pool = inputs
    ctx.size = tuple(z.shape[2:])
    ctx.save_for_backward(output[1])


def _backward(ctx: Any, grad: torch.Tensor, _: Any) -> tuple[torch.Tensor, None, None, None]:
    (argmax,) = ctx.saved_tensors
    return relu_pool_backward_op(grad, argmax, ctx.size, *ctx.pool), None, None, None


relu_pool_op.register_autograd(_backward, setup_context=_setup)


def _pair(values: Sequence[int]) -> Pair:
    first, second = values
    return first, second


def _triton(z: torch.Tensor, window: Pair, stride: Pair, padding: Pair) -> torch.Tensor:
    y: torch.Tensor = relu_pool_op(z, list(window), list(stride), list(padding))[0]
    return y


def _inductor(z: torch.Tensor, window: Pair, stride: Pair, padding: Pair) -> torch.Tensor:
    return relu_pool(z, window)


def _torch(z: torch.Tensor, window: Pair, stride: Pair, padding: Pair) -> torch.Tensor:
    return F.max_pool2d(F.relu(z), window, stride, padding)


def _triton_why_not(z: torch.Tensor, window: Pair, stride: Pair, padding: Pair) -> str:
    return triton_why_not(z) or _too_large(window)


def _inductor_why_not(z: torch.Tensor, window: Pair, stride: Pair, padding: Pair) -> str:
    if stride != window or padding != (0, 0):
        return "the pooling windows overlap, are padded or leave gaps"
    return _too_large(window)


def _too_large(window: Pair) -> str:
    too_large = window[0] * window[1] > MAX_WINDOW_SIZE
    return f"the pooling window has more than {MAX_WINDOW_SIZE} elements" if too_large else ""


# Each takes (z, window, stride, padding), the last three as pairs.
IMPLEMENTATIONS = (
    Implementation("triton", "a Triton kernel for relu+pool", _triton, "cuda", _triton_why_not),
    Implementation("inductor", "relu+pool without scatter", _inductor, "cpu", _inductor_why_not),
    Implementation("torch", "torch", _torch),
)
