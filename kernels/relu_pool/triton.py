"""ReLU and max pooling in Triton, one kernel per direction, channels-last.

The forward stores the argmax of every window, one byte, or a sentinel if ReLU zeroed it. In the
backward each element of the input gathers from the windows that cover it: no scatter, no zero fill,
no atomics.
"""

import torch
import triton
import triton.language as tl

from mammoth_compiled.kernels.runtime.launch import ceil_div, launch
from mammoth_compiled.kernels.runtime.layouts import empty_images
from mammoth_compiled.kernels.runtime.tiles import select_tile

Pair = tuple[int, int]


@triton.jit
def forward_kernel(
    z,  # [B, H, W, C]
    y,  # [B, OH, OW, C]
    argmax,  # [B, OH, OW, C], int8
    num_cells,  # B * OH * OW
    H: tl.constexpr,
    W: tl.constexpr,
    C: tl.constexpr,
    OH: tl.constexpr,
    OW: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    BLOCK_CELLS: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """A program computes a block of pooled values and their argmax."""
    cell = tl.program_id(0) * BLOCK_CELLS + tl.arange(0, BLOCK_CELLS)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    image = (cell // (OH * OW)).to(tl.int64)
    top = (cell // OW % OH) * SH - PH
    left = (cell % OW) * SW - PW
    inside = (cell < num_cells)[:, None] & (c < C)[None, :]

    best = tl.full((BLOCK_CELLS, BLOCK_C), float("-inf"), tl.float32)
    first = tl.full((BLOCK_CELLS, BLOCK_C), KH * KW, tl.int32)
    for i in tl.static_range(KH):
        for j in tl.static_range(KW):
            row, column = top + i, left + j
            valid = inside & ((row >= 0) & (row < H) & (column >= 0) & (column < W))[:, None]
            offset = ((image * H + row) * W + column)[:, None] * C + c[None, :]
            value = tl.load(z + offset, mask=valid, other=float("-inf")).to(tl.float32)
            # Only a greater value replaces it: the first of equal maxima stays, and so does a NaN.
            first = tl.where(value > best, i * KW + j, first)
            best = tl.maximum(best, value, propagate_nan=tl.PropagateNan.ALL)
    offset = cell.to(tl.int64)[:, None] * C + c[None, :]
    tl.store(argmax + offset, tl.where(best > 0, first, KH * KW).to(tl.int8), mask=inside)
    best = tl.maximum(best, 0.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(y + offset, best.to(y.dtype.element_ty), mask=inside)


@triton.jit
def backward_kernel(
    grad,  # [B, OH, OW, C]
    argmax,  # [B, OH, OW, C], int8
    grad_z,  # [B, H, W, C]
    num_cells,  # B * H * W
    H: tl.constexpr,
    W: tl.constexpr,
    C: tl.constexpr,
    OH: tl.constexpr,
    OW: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    BLOCK_CELLS: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """Each element gathers the gradients of the windows whose maximum it is."""
    cell = tl.program_id(0) * BLOCK_CELLS + tl.arange(0, BLOCK_CELLS)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    image = (cell // (H * W)).to(tl.int64)
    y = cell // W % H + PH
    x = cell % W + PW
    inside = (cell < num_cells)[:, None] & (c < C)[None, :]

    total = tl.zeros((BLOCK_CELLS, BLOCK_C), tl.float32)
    # The last window that begins at or before this element, and earlier ones that still cover it.
    for i in tl.static_range((KH + SH - 1) // SH):
        for j in tl.static_range((KW + SW - 1) // SW):
            row, column = y // SH - i, x // SW - j
            dy, dx = y - row * SH, x - column * SW
            covered = (row >= 0) & (row < OH) & (column >= 0) & (column < OW)
            covered = inside & (covered & (dy < KH) & (dx < KW))[:, None]
            offset = ((image * OH + row) * OW + column)[:, None] * C + c[None, :]
            index = tl.load(argmax + offset, mask=covered, other=KH * KW)
            value = tl.load(grad + offset, mask=covered, other=0.0).to(tl.float32)
            total += tl.where(index == (dy * KW + dx)[:, None], value, 0.0)
    offset = cell.to(tl.int64)[:, None] * C + c[None, :]
    tl.store(grad_z + offset, total.to(grad_z.dtype.element_ty), mask=inside)


def forward(
    z: torch.Tensor, window: Pair, stride: Pair, padding: Pair
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes max_pool2d(relu(z)) and its argmax; see `reference.forward`.

    Args:
        z: [B, C, H, W], float, contiguous in channels_last.
        window: (height, width).
        stride: Steps down and right.
        padding: Rows and columns added on each side.
    """
    batch, channels, height, width = z.shape
    rows = (height + 2 * padding[0] - window[0]) // stride[0] + 1
    columns = (width + 2 * padding[1] - window[1]) // stride[1] + 1
    y = empty_images((batch, channels, rows, columns), z)
    argmax = torch.empty_like(y, dtype=torch.int8)
    _launch(forward_kernel, "relu_pool.forward", z, y, (z, y, argmax), y, window, stride, padding)
    return y, argmax


def backward(
    grad: torch.Tensor, argmax: torch.Tensor, size: Pair, window: Pair, stride: Pair, padding: Pair
) -> torch.Tensor:
    """Computes the gradient of z; see `reference.backward`.

    Args:
        grad: Gradient of the pooled values, [B, C, OH, OW], contiguous in channels_last.
        argmax: From `forward`, int8, in the same layout.
        size: (H, W) of z.
        window: (height, width).
        stride: Steps down and right.
        padding: Rows and columns added on each side.
    """
    grad_z = empty_images((*grad.shape[:2], *size), grad)
    tensors = (grad, argmax, grad_z)
    _launch(
        backward_kernel,
        "relu_pool.backward",
        grad_z,
        grad,
        tensors,
        grad_z,
        window,
        stride,
        padding,
    )
    return grad_z


def _launch(
    kernel: object,
    name: str,
    z: torch.Tensor,
    y: torch.Tensor,
    tensors: tuple[torch.Tensor, ...],
    target: torch.Tensor,
    window: Pair,
    stride: Pair,
    padding: Pair,
) -> None:
    batch, channels, height, width = z.shape
    num_cells = target.numel() // channels
    sizes = {"batch": batch, "channels": channels, "height": height, "width": width}
    config = select_tile(name, z.dtype, sizes, z.device)
    grid = (ceil_div(num_cells, config["BLOCK_CELLS"]), ceil_div(channels, config["BLOCK_C"]))
    launch(
        kernel,
        grid,
        *tensors,
        num_cells,
        config=config,
        H=height,
        W=width,
        C=channels,
        OH=y.shape[2],
        OW=y.shape[3],
        KH=window[0],
        KW=window[1],
        SH=stride[0],
        SW=stride[1],
        PH=padding[0],
        PW=padding[1],
    )
