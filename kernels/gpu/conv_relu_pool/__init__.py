"""3x3 convolution, bias, relu and 2x2 max pooling in one Triton kernel, and its gradients.

What the convolution gives is never in memory, and neither is its gradient. Weights are read and
their gradients written in the layout they have: no launch reorders them. A channels-last weight is
read faster, in vectors.
"""

from collections.abc import Iterator
from typing import Any

import torch

from mammoth_compiled.kernels.configs import Config, choose
from mammoth_compiled.kernels.gpu.conv_relu_pool import kernels
from mammoth_compiled.kernels.launch import ceil_div, empty_images, launch
from mammoth_compiled.kernels.problem import Problem

# Programs that share the pixels of a weight gradient: about two for each multiprocessor of today's
# chips. A constant, not the chip's own number, so that sums have the same order everywhere.
SPLIT_PROGRAMS = 256


def forward(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, precision: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes pooled values and winners; see `kernels.conv_relu_pool.reference`.

    Args:
        x: [B, Cin, H, W], float, contiguous in channels_last.
        weight: [Cout, Cin, 3, 3], same dtype, in any layout.
        bias: [Cout] or None.
        precision: "tf32" or "ieee", how float32 products are taken.
    """
    batch, _, height, width = x.shape
    out_channels = weight.shape[0]
    y = empty_images((batch, out_channels, height // 2, width // 2), x)
    winner = torch.empty_like(y, dtype=torch.int8)
    weight, strides = _one_stride_of_taps(weight)
    config, constants = _choose("forward", x, weight, precision)
    num_cells = batch * (height // 2) * (width // 2)
    grid = ceil_div(num_cells, config["BLOCK_M"]) * ceil_div(out_channels, config["BLOCK_N"])
    args = (x, weight, bias, y, winner, num_cells)
    launch(kernels.forward_kernel, (grid,), *args, config=config, **constants, **strides)
    return y, winner


def input_grad(
    grad: torch.Tensor,
    winner: torch.Tensor,
    weight: torch.Tensor,
    size: tuple[int, int],
    precision: str,
) -> torch.Tensor:
    """Computes the gradient of x; see `kernels.conv_relu_pool.reference_input_grad`.

    Args:
        grad: Gradient of the pooled values, [B, Cout, H // 2, W // 2], contiguous in channels_last.
        winner: What `forward` gave, in the same layout.
        weight: [Cout, Cin, 3, 3], same dtype as grad, in any layout.
        size: (H, W) of x.
        precision: "tf32" or "ieee".
    """
    in_channels = weight.shape[1]
    grad_x = empty_images((grad.shape[0], in_channels, *size), grad)
    weight, strides = _one_stride_of_taps(weight)
    config, constants = _choose("input_grad", grad_x, weight, precision)
    num_pixels = grad.shape[0] * size[0] * size[1]
    grid = ceil_div(num_pixels, config["BLOCK_M"]) * ceil_div(in_channels, config["BLOCK_N"])
    args = (grad, winner, weight, grad_x, num_pixels)
    launch(kernels.input_grad_kernel, (grid,), *args, config=config, **constants, **strides)
    return grad_x


def weight_grad(
    grad: torch.Tensor,
    winner: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    precision: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes the gradients of weight and bias; see `conv_relu_pool.reference_weight_grad`.

    Args:
        grad: Gradient of the pooled values, [B, Cout, H // 2, W // 2], contiguous in channels_last.
        winner: What `forward` gave, in the same layout.
        x: [B, Cin, H, W], contiguous in channels_last.
        weight: [Cout, Cin, 3, 3]; its gradient gets the same layout and dtype.
        precision: "tf32" or "ieee".
    """
    out_channels, in_channels = weight.shape[:2]
    config, constants = _choose("weight_grad", x, weight, precision)
    num_cells = grad.shape[0] * grad.shape[2] * grad.shape[3]
    blocks_m = ceil_div(out_channels, config["BLOCK_M"])
    blocks = blocks_m * ceil_div(9 * in_channels, config["BLOCK_N"])
    steps = ceil_div(num_cells, config["BLOCK_K"])
    steps_per_split = max(1, ceil_div(steps, ceil_div(SPLIT_PROGRAMS, blocks)))
    splits = ceil_div(steps, steps_per_split)
    sizes = (splits, out_channels * (9 * in_channels + 1))
    partial = torch.empty(sizes, dtype=torch.float32, device=x.device)
    args = (grad, winner, x, partial, num_cells, steps_per_split * config["BLOCK_K"])
    launch(kernels.weight_grad_kernel, (splits * blocks,), *args, config=config, **constants)

    grad_weight = torch.empty_like(weight)
    grad_bias = weight.new_empty(out_channels)
    dims = {"elements": sizes[1], "splits": splits}
    config = choose("conv_relu_pool.sum_partial", partial.dtype, dims, x.device)
    strides = dict(zip(("WN", "WC", "WY", "WX"), grad_weight.stride(), strict=True))
    constants = {"CIN": in_channels, "COUT": out_channels, **strides}
    launch(
        kernels.sum_partial_kernel,
        (ceil_div(sizes[1], config["BLOCK"]),),
        *(partial, grad_weight, grad_bias, splits),
        config=config,
        **constants,
    )
    return grad_weight, grad_bias


def _choose(
    kernel: str, x: torch.Tensor, weight: torch.Tensor, precision: str
) -> tuple[Config, dict[str, Any]]:
    """Returns the tile of a kernel with products, and what such a kernel is compiled for."""
    batch, in_channels, height, width = x.shape
    out_channels = weight.shape[0]
    dims = {
        "batch": batch,
        "in_channels": in_channels,
        "out_channels": out_channels,
        "height": height,
        "width": width,
        "strict": int(x.dtype == torch.float32 and precision == "ieee"),
    }
    config = choose(f"conv_relu_pool.{kernel}", x.dtype, dims, x.device)
    sizes = {"H": height, "W": width, "CIN": in_channels, "COUT": out_channels}
    return config, {**sizes, "PRECISION": precision}


def _one_stride_of_taps(weight: torch.Tensor) -> tuple[torch.Tensor, dict[str, int]]:
    """Returns a weight with evenly spaced taps, as any dense one has, and its strides."""
    if weight.stride(2) != 3 * weight.stride(3):
        weight = weight.contiguous(memory_format=torch.channels_last)
    return weight, {"WN": weight.stride(0), "WC": weight.stride(1), "WT": weight.stride(3)}


def problems() -> Iterator[Problem]:
    """Yields what `kernels.check` compiles: the layers of small nets."""
    half, strict = (torch.bfloat16, "ieee"), (torch.float32, "ieee")
    common = [half, (torch.float32, "tf32")]
    every = [*common, (torch.float16, "ieee"), strict]
    yield from _problems(3, 32, 32, torch.contiguous_format, every)
    yield from _problems(32, 64, 16, torch.channels_last, every)
    yield from _problems(32, 64, 16, torch.contiguous_format, common)
    yield from _problems(64, 128, 8, torch.channels_last, [*common, strict])
    yield from _problems(3, 64, 32, torch.channels_last, common)


def _problems(
    in_channels: int,
    out_channels: int,
    size: int,
    layout: torch.memory_format,
    kinds: list[tuple[torch.dtype, str]],
) -> Iterator[Problem]:
    for dtype, precision in kinds:
        shape = (32, in_channels, size, size)
        x = torch.empty(shape, dtype=dtype, device="meta", memory_format=torch.channels_last)
        weight = x.new_empty(out_channels, in_channels, 3, 3).to(memory_format=layout)

        def call(
            x: torch.Tensor = x, weight: torch.Tensor = weight, precision: str = precision
        ) -> None:
            y, winner = forward(x, weight, weight.new_empty(weight.shape[0]), precision)
            input_grad(y, winner, weight, (x.shape[2], x.shape[3]), precision)
            weight_grad(y, winner, x, weight, precision)

        order = str(layout).removeprefix("torch.")
        yield Problem(f"{in_channels}->{out_channels}@{size} {order} {dtype} {precision}", call)
