"""3x3 convolution, bias, ReLU and 2x2 max pooling: the operators and their implementations."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from mammoth_compiled.kernels.conv_relu_pool import cpp, reference
from mammoth_compiled.kernels.conv_relu_pool import unpooled_op as unpooled
from mammoth_compiled.kernels.conv_relu_pool.gradient_op import (
    gradients_op,
    input_grad_cpp_op,
    input_grad_op,
    weight_grad_cpp_op,
    weight_grad_op,
)
from mammoth_compiled.kernels.relu_pool import op as relu_pool
from mammoth_compiled.kernels.runtime.cpp_library import cpp_why_not
from mammoth_compiled.kernels.runtime.device import input_precision, triton_why_not
from mammoth_compiled.kernels.runtime.implementations import Implementation, usable
from mammoth_compiled.kernels.runtime.layouts import (
    channels_last,
    empty_images,
    force_channels_last,
)
from mammoth_compiled.kernels.runtime.operators import opaque_operator, traced_operator

# With fewer the C++ kernel does not fill a vector of AVX-512:
# benchmarks/results/cpu_convolutions.json.
MIN_CPP_FILTERS = 16


def conv_relu_pool(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Computes `max_pool2d(relu(conv2d(x, weight, bias, padding=1)), 2)`, or ReLU after the pool.

    Casts x under autocast, as a convolution does, and multiplies in the dtype of x. Differentiable;
    a NaN is passed on and gets no gradient.

    Args:
        x: [B, Cin, H, W], float, fastest in channels-last; H and W at least 2.
        weight: [Cout, Cin, 3, 3], in any dtype and layout, which its gradient gets too.
        bias: [Cout], in any dtype, or None.

    Returns:
        [B, Cout, H // 2, W // 2], channels-last.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device):
        x = x.to(torch.get_autocast_dtype(device))
    # Also here, not only in the operator, so that x is saved for the backward in this layout.
    y: torch.Tensor = conv_relu_pool_op(channels_last(x), weight, bias)[0]
    return y


@traced_operator("conv_relu_pool")
def conv_relu_pool_op(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes `reference.forward`, with Triton on a GPU."""
    return _forward(x, weight, bias)


@traced_operator("conv_relu_pool_unpooled")
def conv_relu_pool_unpooled_op(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same as `conv_relu_pool_op`, but its backward unpools before it multiplies."""
    return _forward(x, weight, bias)


def _forward(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    x = channels_last(x)
    if triton_why_not(x):
        return reference.forward(x, weight, bias)
    from mammoth_compiled.kernels.conv_relu_pool import triton

    return triton.forward(x, weight, bias, input_precision(x.dtype, convolution=True))


@opaque_operator("conv_relu_pool_cpp")
def conv_relu_pool_cpp_op(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes `reference.forward`, in C++ where possible."""
    if cpp_why_not(x):
        return reference.forward(x, weight, bias)
    return cpp.forward(channels_last(x), weight, bias)


@conv_relu_pool_cpp_op.register_fake
@conv_relu_pool_unpooled_op.register_fake
@conv_relu_pool_op.register_fake
def _fake(x: Any, weight: Any, bias: Any) -> tuple[torch.Tensor, torch.Tensor]:
    batch, _, height, width = x.shape
    y = empty_images((batch, weight.shape[0], height // 2, width // 2), x)
    return y, torch.empty_like(y, dtype=torch.int8)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    x, weight, bias = inputs
    ctx.save_for_backward(x, weight, output[1])
    ctx.has_bias = bias is not None


def _backward_with(input_grad: Any, weight_grad: Any, gradients: Any = None) -> Callable[..., Any]:
    """Returns a backward of two operators, or of one where all gradients are needed."""

    def backward(ctx: Any, grad: torch.Tensor, _: Any) -> tuple[torch.Tensor | None, ...]:
        x, weight, argmax = ctx.saved_tensors
        grad = force_channels_last(grad)  # once for both
        grad_x = grad_weight = grad_bias = None
        needs_input, needs_weight = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:])
        if gradients is not None and needs_input and needs_weight:
            grad_x, grad_weight, grad_bias = gradients(grad, argmax, x, weight)
        elif needs_input:
            grad_x = input_grad(grad, argmax, weight, tuple(x.shape[2:]))
        if needs_weight and grad_weight is None:
            grad_weight, grad_bias = weight_grad(grad, argmax, x, weight)
        return grad_x, grad_weight, grad_bias if ctx.has_bias else None

    return backward


def _unpooled_backward(ctx: Any, grad: torch.Tensor, _: Any) -> tuple[torch.Tensor | None, ...]:
    x, weight, argmax = ctx.saved_tensors
    dz = unpooled.unpool_op(force_channels_last(grad), argmax, tuple(x.shape[2:]))
    needs_input, needs_weight = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:])
    grads = unpooled.plain_gradients_op(dz, x, weight, needs_input, needs_weight)
    return (
        grads[0] if needs_input else None,
        grads[1] if needs_weight else None,
        grads[2] if needs_weight and ctx.has_bias else None,
    )


conv_relu_pool_unpooled_op.register_autograd(_unpooled_backward, setup_context=_setup)
conv_relu_pool_op.register_autograd(
    _backward_with(input_grad_op, weight_grad_op, gradients_op), setup_context=_setup
)
conv_relu_pool_cpp_op.register_autograd(
    _backward_with(input_grad_cpp_op, weight_grad_cpp_op), setup_context=_setup
)


def _triton(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    y: torch.Tensor = conv_relu_pool_op(channels_last(x), weight, bias)[0]
    return y


def _unpooled(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    y: torch.Tensor = conv_relu_pool_unpooled_op(channels_last(x), weight, bias)[0]
    return y


def _cpp(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    y: torch.Tensor = conv_relu_pool_cpp_op(channels_last(x), weight, bias)[0]
    return y


def _relu_pool(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    z = _conv(channels_last(x), weight, bias)
    (best, *_), _ = usable(relu_pool.IMPLEMENTATIONS, z.device, z, *reference.POOL)
    result: torch.Tensor = best.function(z, *reference.POOL)
    return result


def _torch(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return F.max_pool2d(F.relu(_conv(x, weight, bias)), 2)


def _conv(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Casts weight and bias like autocast."""
    bias = None if bias is None else bias.to(x.dtype)
    return F.conv2d(x, weight.to(x.dtype), bias, padding=1)


def _triton_why_not(x: torch.Tensor, *_: Any) -> str:
    return triton_why_not(x)


def _triton_why_slow(x: torch.Tensor, *_: Any) -> str:
    strict = x.dtype == torch.float32 and input_precision(x.dtype, convolution=True) == "ieee"
    # Without tensor cores cuDNN has algorithms with fewer multiplications.
    return "cuDNN is faster in strict float32" if strict else ""


def _relu_pool_why_not(x: torch.Tensor, *_: Any) -> str:
    # The images stand for the result of the convolution: dtype and device are the same.
    found, reasons = usable(relu_pool.IMPLEMENTATIONS[:-1], x.device, x, *reference.POOL)
    return "" if found else reasons[0]


def _torch_why_slow(x: torch.Tensor, *_: Any) -> str:
    # Known without measuring where the convolution is torch's either way.
    alone = x.is_cuda and bool(_triton_why_slow(x)) and not _relu_pool_why_not(x)
    return "the backward of torch's max pooling scatters" if alone else ""


def _cpp_why_not(x: torch.Tensor, *_: Any) -> str:
    return cpp_why_not(x)


def _cpp_why_slow(x: torch.Tensor, weight: torch.Tensor, *_: Any) -> str:
    few = weight.shape[0] < MIN_CPP_FILTERS
    return f"it has fewer than {MIN_CPP_FILTERS} filters" if few else ""


# Each takes (x, weight, bias) of a convolution with a 3x3 kernel, stride 1 and padding 1, followed
# by ReLU and 2x2 max pooling.
IMPLEMENTATIONS = (
    Implementation(
        "triton", "one Triton kernel", _triton, "cuda", _triton_why_not, _triton_why_slow
    ),
    Implementation(
        "unpooled",
        "one Triton kernel, three in backward",
        _unpooled,
        "cuda",
        _triton_why_not,
        _triton_why_slow,
    ),
    Implementation("cpp", "one C++ kernel", _cpp, "cpu", _cpp_why_not, _cpp_why_slow),
    Implementation(
        "relu_pool", "torch's convolution, then relu+pool", _relu_pool, why_not=_relu_pool_why_not
    ),
    Implementation("torch", "torch", _torch, why_slow=_torch_why_slow),
)
