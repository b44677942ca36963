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


def input_grad(dz: torch.Tensor, weight: torch.Tensor, precision: str) -> torch.Tensor:
    """Computes the gradient of x; see `reference.plain_input_grad`.

    Args:
        dz: Gradient of the convolution's result, [B, Cout, H, W], contiguous in channels_last.
        weight: [Cout, Cin, 3, 3], in any dtype and layout.
        precision: "tf32" or "ieee".
    """
    batch, out_channels, height, width = dz.shape
    in_channels = weight.shape[1]
    grad_x = empty_images((batch, in_channels, height, width), dz)
    weight, strides = with_even_taps(pack_weight(weight, dz.dtype))
    config, constants = select("plain_input_grad", grad_x, out_channels, precision)
    num_pixels = batch * height * width
    grid = ceil_div(num_pixels, config["BLOCK_M"]) * ceil_div(in_channels, config["BLOCK_N"])
    args = (dz, weight, grad_x, num_pixels)
    launch(kernels.plain_input_grad_kernel, (grid,), *args, config=config, **constants, **strides)
    return grad_x


def weight_grad(
    dz: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, precision: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes the gradients of weight and bias; see `reference.plain_weight_grad`.

    Args:
        dz: Gradient of the convolution's result, [B, Cout, H, W], contiguous in channels_last.
        x: [B, Cin, H, W], contiguous in channels_last.
        weight: [Cout, Cin, 3, 3]; its gradient gets the same layout and dtype.
        precision: "tf32" or "ieee".
    """
    config, constants = select("plain_weight_grad", x, weight.shape[0], precision)
    num_pixels = x.shape[0] * x.shape[2] * x.shape[3]
    partial, grid, per_split = split_sums(weight, num_pixels, config, x.device)
    args = (dz, x, partial, num_pixels, per_split)
    launch(kernels.plain_weight_grad_kernel, (grid,), *args, config=config, **constants)
    return sum_splits(partial, weight)
