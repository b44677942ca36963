"""relu and max pooling in one, forward and backward without scatter: reference and operator.

One number per pooled cell remembers which cell of its window won, or that relu cut it off. The
backward gathers by it. The reference is written so that Inductor makes one loop of each direction
on a CPU, vectorised over channels: everything is seen as [B, H, W, C].
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from mammoth_compiled.kernels.launch import (
    KERNEL_DTYPES,
    channels_last,
    empty_images,
    on_gpu,
    operator,
)

# The operator keeps winners as int8, and one number past the last cell says that relu cut it off.
MAX_CELLS = 126

Pair = tuple[int, int]


def reference(
    z: torch.Tensor, window: Pair, stride: Pair, padding: Pair
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes `max_pool2d(relu(z), window, stride, padding)` and who won.

    Rows and columns that fill no window are left out. A NaN is passed on.

    Args:
        z: [B, C, H, W], float.
        window: (height, width), together at most MAX_CELLS cells.
        stride: Steps down and right.
        padding: Rows and columns added on each side; at most half the window.

    Returns:
        The pooled values, [B, C, OH, OW], and the number of the first cell of each window that has
        the value, counted along rows, or height * width where nothing is above 0; same dtype. Both
        in channels_last.
    """
    cells = _cells(z, window, stride, padding)
    highest = cells[0]
    for cell in cells[1:]:
        highest = torch.maximum(highest, cell)
    # The first of equal cells wins, as in max_pool2d.
    winner = torch.full_like(highest, len(cells) - 1)
    for k in range(len(cells) - 2, -1, -1):
        winner = torch.where(cells[k] == highest, float(k), winner)
    winner = torch.where(highest > 0, winner, float(len(cells)))
    # relu keeps a NaN, which clamp does too.
    return highest.clamp_min(0).permute(0, 3, 1, 2), winner.permute(0, 3, 1, 2)


def reference_backward(
    grad: torch.Tensor, winner: torch.Tensor, size: Pair, window: Pair, stride: Pair, padding: Pair
) -> torch.Tensor:
    """Computes the gradient of z.

    Args:
        grad: Gradient of the pooled values, [B, C, OH, OW].
        winner: What `reference` gave, any dtype.
        size: (H, W) of z.
        window: (height, width).
        stride: Steps down and right.
        padding: Rows and columns added on each side.

    Returns:
        [B, C, H, W], in channels_last. A NaN got no gradient.
    """
    grad, winner = grad.permute(0, 2, 3, 1), winner.permute(0, 2, 3, 1).to(grad.dtype)
    batch, rows, columns, channels = grad.shape
    (height, width), (down, right) = window, stride
    if window == stride and padding == (0, 0):
        flat = batch * rows, columns, channels
        return _spread(grad.reshape(flat), winner.reshape(flat), batch, size, window)
    padded = size[0] + 2 * padding[0], size[1] + 2 * padding[1]
    total = torch.promote_types(grad.dtype, torch.float32)
    spread = torch.zeros((batch, *padded, channels), dtype=total, device=grad.device)
    for i in range(height):
        for j in range(width):
            share = torch.where(winner == i * width + j, grad, 0.0)
            spread[:, i : i + rows * down : down, j : j + columns * right : right] += share
    spread = spread[:, padding[0] : padding[0] + size[0], padding[1] : padding[1] + size[1]]
    return channels_last(spread.permute(0, 3, 1, 2).to(grad.dtype))


def _spread(
    grad: torch.Tensor, winner: torch.Tensor, batch: int, size: Pair, window: Pair
) -> torch.Tensor:
    """Returns the gradient of z, [B, C, H, W], where windows do not overlap.

    Args:
        grad: [B * OH, OW, C].
        winner: Likewise, same dtype.
        batch: B.
        size: (H, W).
        window: (height, width).
    """
    (height, width), (lines, columns, channels) = window, grad.shape
    rows = lines // batch
    cell = torch.arange(height * width, dtype=grad.dtype, device=grad.device)
    hit = winner[:, None, :, None, :] == cell.view(1, height, 1, width, 1)
    spread = torch.where(hit, grad[:, None, :, None, :], 0.0)
    spread = spread.reshape(batch, rows * height, columns * width, channels)
    rest = size[0] - rows * height, size[1] - columns * width
    if any(rest):
        spread = F.pad(spread, (0, 0, 0, rest[1], 0, rest[0]))
    return spread.permute(0, 3, 1, 2)


def relu_pool(z: torch.Tensor, window: Pair) -> torch.Tensor:
    """Computes `max_pool2d(relu(z), window)` on a CPU, or the same with relu after the pooling.

    The stride is the window; rows and columns that fill no window are left out. A NaN is passed on,
    and gets no gradient.

    Args:
        z: [B, C, H, W], float, best in channels_last.
        window: (height, width), together at most MAX_CELLS cells.

    Returns:
        [B, C, H // height, W // width], in channels_last.
    """
    result: torch.Tensor = _ReluPool.apply(z, window)
    return result


@operator("relu_pool")
def relu_pool_op(
    z: torch.Tensor, window: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes what `reference` does, with Triton on a GPU; the winners are int8."""
    sizes = (_pair(window), _pair(stride), _pair(padding))
    z = z.contiguous(memory_format=torch.channels_last)
    if on_gpu(z) and z.dtype in KERNEL_DTYPES:
        from mammoth_compiled.kernels.gpu import relu_pool as gpu

        return gpu.forward(z, *sizes)
    y, winner = reference(z, *sizes)
    return channels_last(y), channels_last(winner.to(torch.int8))


@operator("relu_pool_backward")
def relu_pool_backward_op(
    grad: torch.Tensor,
    winner: torch.Tensor,
    size: Sequence[int],
    window: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
) -> torch.Tensor:
    """Computes what `reference_backward` does, with Triton on a GPU."""
    sizes = (_pair(size), _pair(window), _pair(stride), _pair(padding))
    grad = grad.contiguous(memory_format=torch.channels_last)
    if on_gpu(grad) and grad.dtype in KERNEL_DTYPES:
        from mammoth_compiled.kernels.gpu import relu_pool as gpu

        return gpu.backward(grad, winner, *sizes)
    return channels_last(reference_backward(grad, winner, *sizes))


@relu_pool_op.register_fake
def _fake(z: Any, window: Any, stride: Any, padding: Any) -> tuple[torch.Tensor, torch.Tensor]:
    rows, columns = (
        (z.shape[2 + k] + 2 * padding[k] - window[k]) // stride[k] + 1 for k in range(2)
    )
    y = empty_images((z.shape[0], z.shape[1], rows, columns), z)
    return y, torch.empty_like(y, dtype=torch.int8)


@relu_pool_backward_op.register_fake
def _fake_backward(grad: Any, winner: Any, size: Any, *_: Any) -> torch.Tensor:
    return empty_images((*grad.shape[:2], *size), grad)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    z, *ctx.pool = inputs
    ctx.size = tuple(z.shape[2:])
    ctx.save_for_backward(output[1])


def _backward(ctx: Any, grad: torch.Tensor, _: Any) -> tuple[torch.Tensor, None, None, None]:
    (winner,) = ctx.saved_tensors
    return relu_pool_backward_op(grad, winner, ctx.size, *ctx.pool), None, None, None


relu_pool_op.register_autograd(_backward, setup_context=_setup)


class _ReluPool(torch.autograd.Function):
    """The reference in the form that Inductor makes the best code of on CPUs.

    The winner is a bfloat16, which counts exactly to 256: comparisons stay among floats, since
    masks of bytes are not vectorised on AVX2, and two bytes are few enough that the partitioner
    keeps this number instead of one mask per cell. It is kept as a matrix, [B * OH * OW, C]:
    Inductor takes whatever has four axes for images and would lay it out anew.
    """

    @staticmethod
    def forward(ctx: Any, z: torch.Tensor, window: Pair) -> torch.Tensor:
        y, winner = reference(z, window, window, (0, 0))
        flat = winner.permute(0, 2, 3, 1).to(torch.bfloat16).reshape(-1, z.shape[1])
        ctx.save_for_backward(flat)
        ctx.size, ctx.window = tuple(z.shape[2:]), window
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        (winner,) = ctx.saved_tensors
        grad = stored_channels_last(grads[0])
        batch, channels, rows, columns = grad.shape
        flat = batch * rows, columns, channels
        return _spread(
            grad.permute(0, 2, 3, 1).reshape(flat),
            winner.view(flat).to(grad.dtype),
            batch,
            ctx.size,
            ctx.window,
        ), None


def stored_channels_last(grad: torch.Tensor) -> torch.Tensor:
    """Returns a gradient that lies in memory that way, in Inductor's code too.

    Of `contiguous` Inductor makes no copy, but reads along the wrong axis for each cell of a
    window.
    """
    import torch._inductor.inductor_prims

    _, channels, rows, columns = grad.shape
    strides = (rows * columns * channels, 1, columns * channels, channels)
    laid: torch.Tensor = torch.ops.prims.inductor_force_stride_order(grad, strides)
    return laid


def _cells(z: torch.Tensor, window: Pair, stride: Pair, padding: Pair) -> list[torch.Tensor]:
    """Returns every cell of all windows, each [B, OH, OW, C], along rows."""
    (height, width), (down, right) = window, stride
    if window == stride and padding == (0, 0):
        batch, channels, rows, columns = z.shape
        rows, columns = rows // height, columns // width
        windows = z[:, :, : rows * height, : columns * width].permute(0, 2, 3, 1)
        windows = windows.reshape(batch, rows, height, columns, width, channels)
        return [windows[:, :, i, :, j] for i in range(height) for j in range(width)]
    top, left = padding
    padded = F.pad(z, (left, left, top, top), value=float("-inf")).permute(0, 2, 3, 1)
    rows = (padded.shape[1] - height) // down + 1
    columns = (padded.shape[2] - width) // right + 1
    return [
        padded[:, i : i + rows * down : down, j : j + columns * right : right][:, :rows, :columns]
        for i in range(height)
        for j in range(width)
    ]


def _pair(values: Sequence[int]) -> Pair:
    first, second = values
    return first, second
