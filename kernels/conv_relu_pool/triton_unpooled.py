"""Launchers of the Triton kernels that compute gradients from that of the convolution."""

import torch

from mammoth_compiled.kernels.conv_relu_pool import triton_unpooled_kernels as kernels
from mammoth_compiled.kernels.conv_relu_pool.triton import (
    pack_weight,
    select,
    split_sums,
    sum_splits,
    with_even_taps,
)
from mammoth_compiled.kernels.runtime.launch import ceil_div, launch
from mammoth_compiled.kernels.runtime.layouts import empty_images


def unpool(grad: torch.Tensor, argmax: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Computes the gradient of the convolution's result; see `reference.unpool`.

    Args:
        grad: Gradient of the pooled values, [B, Cout, H // 2, W // 2], contiguous in channels_last.
        argmax: From `forward`, in the same layout.
        size: (H, W).
    """
    batch, channels = grad.shape[:2]
    height, width = size
    dz = empty_images((batch, channels, height, width), grad)
    config, constants = select("unpool", dz, channels, "ieee")
    num_elements = batch * ceil_div(height, 2) * ceil_div(width, 2) * channels
    constants = {name: constants[name] for name in ("H", "W", "COUT")}
    grid = (ceil_div(num_elements, config["BLOCK"]),)
    args = (grad, argmax, dz, num_elements)
    launch(kernels.unpool_kernel, grid, *args, config=config, **constants)
    return dz


def gradients(
    dz: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    needs_input: bool,
    needs_weight: bool,
    precision: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Computes the gradients of x, weight and bias; see `reference.plain_gradients`.

    Args:
        dz: Gradient of the convolution's result, [B, Cout, H, W], contiguous in channels_last.
        x: [B, Cin, H, W], contiguous in channels_last.
        weight: [Cout, Cin, 3, 3], in any dtype and layout, which its gradient gets too.
        needs_input: Whether to compute the gradient of x.
        needs_weight: Whether to compute those of weight and bias.
        precision: "tf32" or "ieee".
    """
    batch, in_channels, height, width = x.shape
    config, constants = select("plain_gradients", x, weight.shape[0], precision)
    packed, strides = with_even_taps(pack_weight(weight, dz.dtype) if needs_input else weight)
    num_pixels = batch * height * width
    grad_x = partial = None
    input_programs = sum_programs = per_split = 0
    if needs_input:
        grad_x = empty_images((batch, in_channels, height, width), x)
        blocks = ceil_div(in_channels, config["BLOCK_N"])
        input_programs = ceil_div(num_pixels, config["BLOCK_M"]) * blocks
    if needs_weight:
        tile = (config["SUM_M"], config["SUM_N"], config["SUM_K"])
        partial, sum_programs, per_split = split_sums(weight, num_pixels, tile, x.device)
    launch(
        kernels.plain_gradients_kernel,
        (input_programs + sum_programs,),
        *(dz, x, packed, grad_x, partial, num_pixels, per_split, input_programs),
        config=config,
        **constants,
        **strides,
    )
    grads = no_weight_grads(weight) if partial is None else sum_splits(partial, weight)
    return x.new_empty(0) if grad_x is None else grad_x, *grads


def no_weight_grads(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns placeholders of gradients of weight and bias that are not needed."""
    return weight.new_empty(0), weight.new_empty(0)
