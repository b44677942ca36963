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


@traced_operator("conv_relu_pool_plain_gradients")
def plain_gradients_op(
    dz: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    needs_input: bool,
    needs_weight: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Computes `reference.plain_gradients`, with Triton on a GPU."""
    dz, x = channels_last(dz), channels_last(x)
    if triton_why_not(dz):
        return reference.plain_gradients(dz, x, weight, needs_input, needs_weight)
    from mammoth_compiled.kernels.conv_relu_pool import triton_unpooled

    precision = input_precision(dz.dtype, convolution=True)
    return triton_unpooled.gradients(dz, x, weight, needs_input, needs_weight, precision)


@unpool_op.register_fake
def _fake_unpool(grad: Any, argmax: Any, size: Any) -> torch.Tensor:
    return empty_images((*grad.shape[:2], *size), grad)


@plain_gradients_op.register_fake
def _fake_gradients(
    dz: Any, x: Any, weight: Any, needs_input: bool, needs_weight: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        empty_images(tuple(x.shape), dz) if needs_input else x.new_empty(0),
        torch.empty_like(weight) if needs_weight else weight.new_empty(0),
        weight.new_empty(weight.shape[0] if needs_weight else 0),
    )
