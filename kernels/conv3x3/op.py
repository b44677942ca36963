"""3x3 convolution with stride and padding 1: the operators and their implementations."""

from typing import Any

import torch
from torch.nn import functional as F

from mammoth_compiled.kernels.conv3x3 import cpp, reference
from mammoth_compiled.kernels.runtime.cpp_library import cpp_why_not
from mammoth_compiled.kernels.runtime.implementations import Implementation
from mammoth_compiled.kernels.runtime.layouts import channels_last, empty_images
from mammoth_compiled.kernels.runtime.operators import opaque_operator

# With fewer channels Winograd's transforms cost what the multiplications save:
# benchmarks/results/cpu_convolutions.json.
MIN_CHANNELS = 24


def conv3x3(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Computes `conv2d(x, weight, bias, padding=1)`. Differentiable.

    Args:
        x: [B, Cin, H, W], float, fastest in channels-last.
        weight: [Cout, Cin, 3, 3], same dtype; its gradient gets its layout.
        bias: [Cout], same dtype, or None.

    Returns:
        [B, Cout, H, W], channels-last.
    """
    # Also here, not only in the operator, so that x is saved for the backward in this layout.
    y: torch.Tensor = conv3x3_op(channels_last(x), weight, bias)
    return y


@opaque_operator("conv3x3")
def conv3x3_op(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Computes `reference.forward`, in C++ where possible."""
    if cpp_why_not(x):
        return reference.forward(x, weight, bias)
    return cpp.forward(channels_last(x), weight, bias)


@opaque_operator("conv3x3_input_grad")
def input_grad_op(grad: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Computes `reference.input_grad`, in C++ where possible."""
    if cpp_why_not(grad):
        return reference.input_grad(grad, weight)
    return cpp.input_grad(channels_last(grad), weight)


@opaque_operator("conv3x3_weight_grad")
def weight_grad_op(grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Computes `reference.weight_grad`, in C++ where possible."""
    if cpp_why_not(grad):
        return reference.weight_grad(grad, x, weight)
    return cpp.weight_grad(channels_last(grad), channels_last(x), weight)


@conv3x3_op.register_fake
def _fake(x: Any, weight: Any, bias: Any) -> torch.Tensor:
    return empty_images((x.shape[0], weight.shape[0], *x.shape[2:]), x)


@input_grad_op.register_fake
def _fake_input_grad(grad: Any, weight: Any) -> torch.Tensor:
    return empty_images((grad.shape[0], weight.shape[1], *grad.shape[2:]), grad)


@weight_grad_op.register_fake
def _fake_weight_grad(grad: Any, x: Any, weight: Any) -> torch.Tensor:
    return torch.empty_like(weight)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, weight, _ = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    needs_x, needs_weight, needs_bias = ctx.needs_input_grad
    return (
        input_grad_op(grad, weight) if needs_x else None,
        weight_grad_op(grad, x, weight) if needs_weight else None,
        grad.sum((0, 2, 3)) if needs_bias else None,
    )


conv3x3_op.register_autograd(_backward, setup_context=_setup)


def _torch(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return F.conv2d(x, weight, bias, padding=1)


def _cpp_why_not(x: torch.Tensor, weight: torch.Tensor, *_: Any) -> str:
    if x.dtype != torch.float32 or x.dim() != 4:
        return "its input is not a float32 batch of images"
    return cpp_why_not(x)


def _cpp_why_slow(x: torch.Tensor, weight: torch.Tensor, *_: Any) -> str:
    few = min(weight.shape[:2]) < MIN_CHANNELS
    return f"it has fewer than {MIN_CHANNELS} channels" if few else ""


# Each takes (x, weight, bias) of a convolution with a 3x3 kernel, stride 1 and padding 1.
IMPLEMENTATIONS = (
    Implementation("cpp", "C++ kernels by Winograd", conv3x3, "cpu", _cpp_why_not, _cpp_why_slow),
    Implementation("torch", "torch", _torch),
)
