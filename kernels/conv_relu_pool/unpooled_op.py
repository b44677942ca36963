"""Operators of the gradients that are computed from that of the convolution's result."""

from collections.abc import Sequence
from typing import Any

import torch

from mammoth_compiled.kernels.conv_relu_pool import reference
from mammoth_compiled.kernels.runtime.device import input_precision, triton_why_not
from mammoth_compiled.kernels.runtime.layouts import channels_last, empty_images
from mammoth_compiled.kernels.runtime.operators import traced_operator


@traced_operator("conv_relu_pool_unpool")
def unpool_op(grad: torch.Tensor, argmax: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Computes `reference.unpool`, with Triton on a GPU."""
    grad = channels_last(grad)
    if triton_why_not(grad):
        return reference.unpool(grad, argmax, size)
    from mammoth_compiled.kernels.conv_relu_pool import triton_unpooled

    height, width = size
    return triton_unpooled.unpool(grad, argmax, (height, width))


@traced_operator("conv_relu_pool_plain_input_grad")
def plain_input_grad_op(dz: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Computes `reference.plain_input_grad`, with Triton on a GPU."""
    dz = channels_last(dz)
    if triton_why_not(dz):
        return reference.plain_input_grad(dz, weight)
    from mammoth_compiled.kernels.conv_relu_pool import triton_unpooled

    return triton_unpooled.input_grad(dz, weight, input_precision(dz.dtype, convolution=True))


@traced_operator("conv_relu_pool_plain_weight_grad")
def plain_weight_grad_op(
    dz: torch.Tensor, x: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes `reference.plain_weight_grad`, with Triton on a GPU."""
    dz, x = channels_last(dz), channels_last(x)
    if triton_why_not(dz):
        return reference.plain_weight_grad(dz, x, weight)
    from mammoth_compiled.kernels.conv_relu_pool import triton_unpooled

    return triton_unpooled.weight_grad(dz, x, weight, input_precision(dz.dtype, convolution=True))


@unpool_op.register_fake
def _fake_unpool(grad: Any, argmax: Any, size: Any) -> torch.Tensor:
    return empty_images((*grad.shape[:2], *size), grad)


@plain_input_grad_op.register_fake
def _fake_input_grad(dz: Any, weight: Any) -> torch.Tensor:
    return empty_images((dz.shape[0], weight.shape[1], *dz.shape[2:]), dz)


@plain_weight_grad_op.register_fake
def _fake_weight_grad(dz: Any, x: Any, weight: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(weight), weight.new_empty(weight.shape[0])
