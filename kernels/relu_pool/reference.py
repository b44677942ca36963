"""ReLU and max pooling and its gradient in plain torch.

Written so that Inductor makes one loop of each direction on a CPU, vectorized over the channels:
everything is computed as [B, H, W, C].
"""

import torch
from torch.nn import functional as F

from mammoth_compiled.kernels.runtime.layouts import channels_last

# The operator stores the argmax as int8, and the sentinel is one past the last index.
MAX_WINDOW_SIZE = 126

Pair = tuple[int, int]


def forward(
    z: torch.Tensor, window: Pair, stride: Pair, padding: Pair
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes `max_pool2d(relu(z), window, stride, padding)` and its argmax.

    Rows and columns that do not fill a window are dropped. A NaN is passed on.

    Args:
        z: [B, C, H, W], float.
        window: (height, width), together at most MAX_WINDOW_SIZE elements.
        stride: Steps down and right.
        padding: Rows and columns added on each side; at most half the window.

    Returns:
        The pooled values, [B, C, OH, OW], and for each the index of the first maximum in its
        window, counted row by row, or height * width if nothing is above 0; same dtype. Both
        channels-last.
    """
    elements = _window_elements(z, window, stride, padding)
    highest = elements[0]
    for element in elements[1:]:
        highest = torch.maximum(highest, element)
    # The first of equal maxima, as in max_pool2d.
    argmax = torch.full_like(highest, len(elements) - 1)
    for k in range(len(elements) - 2, -1, -1):
        argmax = torch.where(elements[k] == highest, float(k), argmax)
    argmax = torch.where(highest > 0, argmax, float(len(elements)))
    # Like relu, clamp keeps a NaN.
    return highest.clamp_min(0).permute(0, 3, 1, 2), argmax.permute(0, 3, 1, 2)


def backward(
    grad: torch.Tensor, argmax: torch.Tensor, size: Pair, window: Pair, stride: Pair, padding: Pair
) -> torch.Tensor:
    """Computes the gradient of z.

    Args:
        grad: Gradient of the pooled values, [B, C, OH, OW].
        argmax: From `forward`, any dtype.
        size: (H, W) of z.
        window: (height, width).
        stride: Steps down and right.
        padding: Rows and columns added on each side.

    Returns:
        [B, C, H, W], channels-last; 0 for a NaN.
    """
    grad, argmax = grad.permute(0, 2, 3, 1), argmax.permute(0, 2, 3, 1).to(grad.dtype)
    batch, rows, columns, channels = grad.shape
    (height, width), (down, right) = window, stride
    if window == stride and padding == (0, 0):
        flat = batch * rows, columns, channels
        return backward_disjoint(grad.reshape(flat), argmax.reshape(flat), batch, size, window)
    padded = size[0] + 2 * padding[0], size[1] + 2 * padding[1]
    dtype = torch.promote_types(grad.dtype, torch.float32)
    total = torch.zeros((batch, *padded, channels), dtype=dtype, device=grad.device)
    for i in range(height):
        for j in range(width):
            part = torch.where(argmax == i * width + j, grad, 0.0)
            total[:, i : i + rows * down : down, j : j + columns * right : right] += part
    total = total[:, padding[0] : padding[0] + size[0], padding[1] : padding[1] + size[1]]
    return channels_last(total.permute(0, 3, 1, 2).to(grad.dtype))


def backward_disjoint(
    grad: torch.Tensor, argmax: torch.Tensor, batch: int, size: Pair, window: Pair
) -> torch.Tensor:
    """Computes the gradient of z where windows do not overlap.

    Args:
        grad: Gradient of the pooled values, [B * OH, OW, C].
        argmax: Likewise, same dtype.
        batch: B.
        size: (H, W) of z.
        window: (height, width).

    Returns:
        [B, C, H, W], channels-last.
    """
    (height, width), (lines, columns, channels) = window, grad.shape
    rows = lines // batch
    index = torch.arange(height * width, dtype=grad.dtype, device=grad.device)
    is_argmax = argmax[:, None, :, None, :] == index.view(1, height, 1, width, 1)
    result = torch.where(is_argmax, grad[:, None, :, None, :], 0.0)
    result = result.reshape(batch, rows * height, columns * width, channels)
    dropped = size[0] - rows * height, size[1] - columns * width
    if any(dropped):
        result = F.pad(result, (0, 0, 0, dropped[1], 0, dropped[0]))
    return result.permute(0, 3, 1, 2)


def _window_elements(
    z: torch.Tensor, window: Pair, stride: Pair, padding: Pair
) -> list[torch.Tensor]:
    """Returns each element of all windows, row by row, as [B, OH, OW, C]."""
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
