"""relu and max pooling without overlap, forward and backward without scatter: the reference.

Written so that Inductor makes one loop of each direction, vectorised over channels: everything is
seen as [B, H, W, C]. The winner of each window is remembered as a bfloat16: comparisons stay among
floats, since masks of bytes are not vectorised on AVX2, and two bytes are few enough that the
partitioner keeps this number instead of one mask per cell.
"""

from typing import Any

import torch
from torch.nn import functional as F

# bfloat16 counts exactly up to 256.
MAX_CELLS = 255


class _ReluPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: torch.Tensor, height: int, width: int) -> torch.Tensor:
        batch, channels, rows, columns = z.shape
        rows, columns = rows // height, columns // width
        windows = z[:, :, : rows * height, : columns * width].permute(0, 2, 3, 1)
        windows = windows.reshape(batch, rows, height, columns, width, channels)
        cells = [windows[:, :, i, :, j] for i in range(height) for j in range(width)]
        highest = cells[0]
        for cell in cells[1:]:
            highest = torch.maximum(highest, cell)
        # The first of equal cells wins, as in max_pool2d.
        winner = torch.full_like(highest, len(cells) - 1)
        for k in range(len(cells) - 2, -1, -1):
            winner = torch.where(cells[k] == highest, float(k), winner)
        winner = torch.where(highest > 0, winner, float(len(cells)))
        ctx.save_for_backward(winner.to(torch.bfloat16))
        ctx.shape, ctx.window = z.shape, (height, width)
        # relu keeps a NaN, which clamp does too.
        return highest.clamp_min(0).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (winner,) = ctx.saved_tensors
        height, width = ctx.window
        grad = grads[0].permute(0, 2, 3, 1)
        winner = winner.to(grad.dtype)
        batch, rows, columns, channels = grad.shape
        cell = torch.arange(height * width, dtype=grad.dtype, device=grad.device)
        hit = winner[:, :, None, :, None, :] == cell.view(1, 1, height, 1, width, 1)
        spread = torch.where(hit, grad[:, :, None, :, None, :], 0.0)
        spread = spread.reshape(batch, rows * height, columns * width, channels)
        spread = spread.permute(0, 3, 1, 2)
        right, below = ctx.shape[3] - columns * width, ctx.shape[2] - rows * height
        if right or below:
            spread = F.pad(spread, (0, right, 0, below))
        return spread, None, None


def relu_pool(z: torch.Tensor, window: tuple[int, int]) -> torch.Tensor:
    """Computes `max_pool2d(relu(z), window)`, or the same with relu after the pooling.

    The stride is the window; rows and columns that fill no window are left out. A NaN is passed on,
    and gets no gradient.

    Args:
        z: [B, C, H, W], float, best in channels_last.
        window: (height, width), together at most MAX_CELLS cells.

    Returns:
        [B, C, H // height, W // width], in channels_last.
    """
    result: torch.Tensor = _ReluPool.apply(z, *window)
    return result
