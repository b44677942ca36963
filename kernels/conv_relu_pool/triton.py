"""Launchers of the Triton kernels of convolution, ReLU and pooling, and of their gradients.

Weights are read in the dtype of the images: `pack_weight` casts and reorders them in one kernel,
which autocast needs anyway. The gradient of the images reads channels-last weights in vectors, and
reorders others first; forward reads any layout, so that inference launches nothing else. Gradients
are written in dtype and layout of the weight, so that nothing converts them.
"""

from typing import Any

import torch

from mammoth_compiled.kernels.conv_relu_pool import triton_gradient_kernels as gradient_kernels
from mammoth_compiled.kernels.conv_relu_pool import triton_kernels as kernels
from mammoth_compiled.kernels.conv_relu_pool.triton_sums import sum_partial_kernel
from mammoth_compiled.kernels.runtime.launch import ceil_div, launch
from mammoth_compiled.kernels.runtime.layouts import empty_images
from mammoth_compiled.kernels.runtime.tiles import TileConfig, select_tile

# Programs that share the pixels of a weight gradient, about two per multiprocessor. A constant
# rather than the chip's own number, so that sums have the same order everywhere.
SPLIT_PROGRAMS = 256


def forward(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, precision: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes pooled values and their argmax; see `reference.forward`.

    Args:
        x: [B, Cin, H, W], float, contiguous in channels_last.
        weight: [Cout, Cin, 3, 3], in any dtype and layout.
        bias: [Cout] or None, in any dtype.
        precision: "tf32" or "ieee", of float32 multiplications.
    """
    batch, _, height, width = x.shape
    out_channels = weight.shape[0]
    y = empty_images((batch, out_channels, height // 2, width // 2), x)
    argmax = torch.empty_like(y, dtype=torch.int8)
    if weight.dtype != x.dtype:
        weight = pack_weight(weight, x.dtype)
    weight, strides = with_even_taps(weight)
    config, constants = select("forward", x, out_channels, precision)
    num_cells = batch * (height // 2) * (width // 2)
    grid = ceil_div(num_cells, config["BLOCK_M"]) * ceil_div(out_channels, config["BLOCK_N"])
    args = (x, weight, bias, y, argmax, num_cells)
    launch(kernels.forward_kernel, (grid,), *args, config=config, **constants, **strides)
    return y, argmax


def input_grad(
    grad: torch.Tensor,
    argmax: torch.Tensor,
    weight: torch.Tensor,
    size: tuple[int, int],
    precision: str,
) -> torch.Tensor:
    """Computes the gradient of x; see `reference.input_grad`.

    Args:
        grad: Gradient of the pooled values, [B, Cout, H // 2, W // 2], contiguous in channels_last.
        argmax: From `forward`, in the same layout.
        weight: [Cout, Cin, 3, 3], in any dtype and layout.
        size: (H, W) of x.
        precision: "tf32" or "ieee".
    """
    in_channels = weight.shape[1]
    grad_x = empty_images((grad.shape[0], in_channels, *size), grad)
    weight, strides = with_even_taps(pack_weight(weight, grad.dtype))
    config, constants = select("input_grad", grad_x, weight.shape[0], precision)
    num_pixels = grad.shape[0] * size[0] * size[1]
    grid = ceil_div(num_pixels, config["BLOCK_M"]) * ceil_div(in_channels, config["BLOCK_N"])
    args = (grad, argmax, weight, grad_x, num_pixels)
    launch(
        gradient_kernels.input_grad_kernel, (grid,), *args, config=config, **constants, **strides
    )
    return grad_x


def weight_grad(
    grad: torch.Tensor,
    argmax: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    precision: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes the gradients of weight and bias; see `reference.weight_grad`.

    Args:
        grad: Gradient of the pooled values, [B, Cout, H // 2, W // 2], contiguous in channels_last.
        argmax: From `forward`, in the same layout.
        x: [B, Cin, H, W], contiguous in channels_last.
        weight: [Cout, Cin, 3, 3]; its gradient gets the same layout and dtype.
        precision: "tf32" or "ieee".
    """
    config, constants = select("weight_grad", x, weight.shape[0], precision)
    num_cells = grad.shape[0] * grad.shape[2] * grad.shape[3]
    tile = (config["BLOCK_M"], config["BLOCK_N"], config["BLOCK_K"])
    partial, grid, per_split = split_sums(weight, num_cells, tile, x.device)
    args = (grad, argmax, x, partial, num_cells, per_split)
    launch(gradient_kernels.weight_grad_kernel, (grid,), *args, config=config, **constants)
    return sum_splits(partial, weight)


def gradients(
    grad: torch.Tensor,
    argmax: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    precision: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Computes what `input_grad` and `weight_grad` do, side by side in one launch.

    Args:
        grad: Gradient of the pooled values, [B, Cout, H // 2, W // 2], contiguous in channels_last.
        argmax: From `forward`, in the same layout.
        x: [B, Cin, H, W], contiguous in channels_last.
        weight: [Cout, Cin, 3, 3], in any dtype and layout, which its gradient gets too.
        precision: "tf32" or "ieee".

    Returns:
        The gradients of x, weight and bias.
    """
    batch, in_channels, height, width = x.shape
    grad_x = empty_images((batch, in_channels, height, width), grad)
    packed, strides = with_even_taps(pack_weight(weight, grad.dtype))
    config, constants = select("gradients", x, weight.shape[0], precision)
    num_pixels = batch * height * width
    blocks = ceil_div(in_channels, config["BLOCK_N"])
    input_programs = ceil_div(num_pixels, config["BLOCK_M"]) * blocks
    num_cells = batch * (height // 2) * (width // 2)
    tile = (config["SUM_M"], config["SUM_N"], config["SUM_K"])
    partial, sum_programs, per_split = split_sums(weight, num_cells, tile, x.device)
    launch(
        gradient_kernels.gradients_kernel,
        (input_programs + sum_programs,),
        *(grad, argmax, x, packed, grad_x, partial),
        *(num_pixels, num_cells, per_split, input_programs),
        config=config,
        **constants,
        **strides,
    )
    return grad_x, *sum_splits(partial, weight)


def split_sums(
    weight: torch.Tensor, count: int, tile: tuple[int, int, int], device: torch.device
) -> tuple[torch.Tensor, int, int]:
    """Divides the sums of a weight gradient among programs.

    Args:
        weight: [Cout, Cin, 3, 3].
        count: Number of cells or pixels to sum over.
        tile: Output channels, taps times input channels, and summands per program and iteration.
        device: Where it runs.

    Returns:
        Uninitialized partial sums, [splits, Cout * (9 * Cin + 1)] in float32; the number of
        programs; and the number of cells or pixels of a split.
    """
    out_channels, in_channels = weight.shape[:2]
    block_m, block_n, block_k = tile
    blocks = ceil_div(out_channels, block_m) * ceil_div(9 * in_channels, block_n)
    steps = ceil_div(count, block_k)
    steps_per_split = max(1, ceil_div(steps, ceil_div(SPLIT_PROGRAMS, blocks)))
    splits = ceil_div(steps, steps_per_split)
    num_elements = out_channels * (9 * in_channels + 1)
    partial = torch.empty((splits, num_elements), dtype=torch.float32, device=device)
    return partial, splits * blocks, steps_per_split * block_k


def sum_splits(partial: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Adds up partial sums, in a fixed order.

    Args:
        partial: [splits, Cout * (9 * Cin + 1)], float32.
        weight: [Cout, Cin, 3, 3].

    Returns:
        The gradients of the weight, in its dtype and layout, and of the bias, [Cout].
    """
    out_channels, in_channels = weight.shape[:2]
    splits, num_elements = partial.shape
    grad_weight = torch.empty_like(weight)
    grad_bias = weight.new_empty(out_channels)
    sizes = {"elements": num_elements, "splits": splits}
    config = select_tile("conv_relu_pool.sum_partial", partial.dtype, sizes, partial.device)
    strides = dict(zip(("WN", "WC", "WY", "WX"), grad_weight.stride(), strict=True))
    constants = {"CIN": in_channels, "COUT": out_channels, **strides}
    launch(
        sum_partial_kernel,
        (ceil_div(num_elements, config["BLOCK"]),),
        *(partial, grad_weight, grad_bias, splits),
        config=config,
        **constants,
    )
    return grad_weight, grad_bias


def select(
    kernel: str, x: torch.Tensor, out_channels: int, precision: str
) -> tuple[TileConfig, dict[str, Any]]:
    """Returns the tile of a kernel and the compile-time constants that most kernels share."""
    batch, in_channels, height, width = x.shape
    sizes = {
        "batch": batch,
        "in_channels": in_channels,
        "out_channels": out_channels,
        "height": height,
        "width": width,
        "strict": int(x.dtype == torch.float32 and precision == "ieee"),
    }
    config = select_tile(f"conv_relu_pool.{kernel}", x.dtype, sizes, x.device)
    sizes = {"H": height, "W": width, "CIN": in_channels, "COUT": out_channels}
    return config, {**sizes, "PRECISION": precision}


def pack_weight(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Returns a weight, [Cout, Cin, 3, 3], as the kernels multiply it, itself if it is so already.

    A channels-last weight is loaded in vectors if channels come in multiples of 16 bytes. With
    fewer it is gathered in any layout, and not reordered unless it is converted anyway.
    """
    if weight.dtype == dtype and weight.shape[1] * dtype.itemsize % 16:
        return weight
    return weight.to(dtype, memory_format=torch.channels_last)


def with_even_taps(weight: torch.Tensor) -> tuple[torch.Tensor, dict[str, int]]:
    """Returns the weight with evenly spaced taps, as any dense weight has, and its strides."""
    if weight.stride(2) != 3 * weight.stride(3):
        weight = weight.contiguous(memory_format=torch.channels_last)
    return weight, {"WN": weight.stride(0), "WC": weight.stride(1), "WT": weight.stride(3)}
