"""Operators of the gradients that are computed from that of the pooled values."""

from collections.abc import Sequence
from typing import Any

import torch

from mammoth_compiled.kernels.conv_relu_pool import cpp, reference
from mammoth_compiled.kernels.runtime.cpp_library import cpp_why_not
from mammoth_compiled.kernels.runtime.device import input_precision, triton_why_not
from mammoth_compiled.kernels.runtime.layouts import channels_last, empty_images
from mammoth_compiled.kernels.runtime.operators import opaque_operator, traced_operator


@traced_operator("conv_relu_pool_input_grad")
def input_grad_op(
    grad: torch.Tensor, argmax: torch.Tensor, weight: torch.Tensor, size: Sequence[int]
) -> torch.Tensor:
    """Computes `reference.input_grad`, with Triton on a GPU."""
    grad = channels_last(grad)
    if triton_why_not(grad):
        return reference.input_grad(grad, argmax, weight, size)
    from mammoth_compiled.kernels.conv_relu_pool import triton

    height, width = size
    precision = input_precision(grad.dtype, convolution=True)
    return triton.input_grad(grad, argmax, weight, (height, width), precision)


@traced_operator("conv_relu_pool_weight_grad")
def weight_grad_op(
    grad: torch.Tensor, argmax: torch.Tensor, x: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes `reference.weight_grad`, with Triton on a GPU."""
    grad, x = channels_last(grad), channels_last(x)
    if triton_why_not(x):
        return reference.weight_grad(grad, argmax, x, weight)
    from mammoth_compiled.kernels.conv_relu_pool import triton

    precision = input_precision(x.dtype, convolution=True)
    return triton.weight_grad(grad, argmax, x, weight, precision)


@traced_operator("conv_relu_pool_gradients")
def gradients_op(
    grad: torch.Tensor, argmax: torch.Tensor, x: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Computes the gradients of x, weight and bias, with Triton on a GPU."""
    grad, x = channels_last(grad), channels_last(x)
    if triton_why_not(x):
        dz = reference.unpool(grad, argmax, x.shape[2:])
        return reference.plain_gradients(dz, x, weight, True, True)
    from mammoth_compiled.kernels.conv_relu_pool import triton

    precision = input_precision(x.dtype, convolution=True)
    return triton.gradients(grad, argmax, x, weight, precision)


@opaque_operator("conv_relu_pool_cpp_input_grad")
def input_grad_cpp_op(
    grad: torch.Tensor, argmax: torch.Tensor, weight: torch.Tensor, size: Sequence[int]
) -> torch.Tensor:
    """Computes `reference.input_grad`, in C++ where possible."""
    if cpp_why_not(grad):
        return reference.input_grad(grad, argmax, weight, size)
    height, width = size
    grad, argmax = channels_last(grad), channels_last(argmax)
    return cpp.input_grad(grad, argmax, weight, (height, width))


@opaque_operator("conv_relu_pool_cpp_weight_grad")
def weight_grad_cpp_op(
    grad: torch.Tensor, argmax: torch.Tensor, x: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes `reference.weight_grad`, in C++ where possible."""
    if cpp_why_not(grad):
        return reference.weight_grad(grad, argmax, x, weight)
    grad, argmax, x = channels_last(grad), channels_last(argmax), channels_last(x)
    return cpp.weight_grad(grad, argmax, x, weight)


@input_grad_cpp_op.register_fake
@input_grad_op.register_fake
def _fake_input_grad(grad: Any, argmax: Any, weight: Any, size: Any) -> torch.Tensor:
    return empty_images((grad.shape[0], weight.shape[1], *size), grad)


@weight_grad_cpp_op.register_fake
@weight_grad_op.register_fake
def _fake_weight_grad(
    grad: Any, argmax: Any, x: Any, weight: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(weight), weight.new_empty(weight.shape[0])


@gradients_op.register_fake
def _fake_gradients(
    grad: Any, argmax: Any, x: Any, weight: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    grad_x = empty_images(tuple(x.shape), grad)
    return grad_x, *_fake_weight_grad(grad, argmax, x, weight)
