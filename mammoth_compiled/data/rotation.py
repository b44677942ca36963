"""Rotation of a batch, each image by its own angle: the reference.

Two arithmetics: that of Pillow on bytes, which finds the nearest pixel in fixed point, and that of
torchvision on tensors.
"""

import math

import torch
from torch.nn import functional as F


def rotate_pillow(
    images: torch.Tensor,
    degrees: torch.Tensor,
    bilinear: bool = False,
    center: tuple[float, float] | None = None,
    fill: int = 0,
) -> torch.Tensor:
    """Rotates every image by its own angle as Pillow does, within its frame.

    Equal to Pillow's result up to the 15th decimal of sine and cosine, to which it rounds them: no
    angle is known at which the nearest pixel is another one, and bilinear values differ, by one
    level, where they are whole in exact arithmetic (a few pixels at odd multiples of 45 degrees).

    Args:
        images: Bytes, [B, C, H, W], of less than 2^15 pixels a side.
        degrees: Angle of each image, counter-clockwise, [B].
        bilinear: Interpolate between four pixels instead of taking the nearest one.
        center: (x, y) of the center of rotation in pixels, from the upper left corner; None takes
            the image's.
        fill: Value outside the image, 0 to 255.

    Returns:
        [B, C, H, W], uint8.
    """
    height, width = images.shape[2:]
    cos, sin, shift_x, shift_y = _inverse(degrees, *(center or (width / 2, height / 2)))
    x = torch.arange(width, device=images.device)
    y = torch.arange(height, device=images.device)[:, None]
    if bilinear:
        x_in = cos * (x + 0.5) + sin * (y + 0.5) + shift_x
        y_in = -sin * (x + 0.5) + cos * (y + 0.5) + shift_y
        inside = (x_in >= 0) & (x_in < width) & (y_in >= 0) & (y_in < height)
        pixels = _interpolate(images, x_in - 0.5, y_in - 0.5).to(images.dtype)
    else:
        # Pixels in steps of 2^-16, added up from the first pixel's middle.
        dx, dy = _fixed(cos), _fixed(sin)
        column = _fixed(shift_x + cos * 0.5 + sin * 0.5) + dx * x + dy * y >> 16
        row = _fixed(shift_y - sin * 0.5 + cos * 0.5) + _fixed(-sin) * x + dx * y >> 16
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        pixels = _take(images, column, row)
    return torch.where(inside[:, None], pixels, fill)


def _inverse(
    degrees: torch.Tensor, x: float, y: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the way back of a rotation about (x, y), each double, [B, 1, 1].

    A pixel at (u, v) comes from (cos u + sin v + shift_x, -sin u + cos v + shift_y).
    """
    angle = degrees.double().remainder(360)[:, None, None] * -(math.pi / 180)
    cos, sin = (f.round(decimals=15) for f in (angle.cos(), angle.sin()))
    return cos, sin, cos * -x + sin * -y + x, -sin * -x + cos * -y + y


def _fixed(value: torch.Tensor) -> torch.Tensor:
    return (value * 65536 + 0.5).floor().long()


def _take(images: torch.Tensor, column: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    """Returns the pixels [B, C, H, W] at columns and rows [B, H, W], the nearest in the image."""
    batch, channels, height, width = images.shape
    index = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    index = index.view(batch, 1, height * width).expand(batch, channels, height * width)
    return images.flatten(2).gather(2, index).view_as(images)


def _interpolate(images: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Returns the images [B, C, H, W] between pixels, at x and y, each [B, H, W]."""
    left, top = x.floor(), y.floor()
    across, down = (x - left)[:, None], (y - top)[:, None]
    column, row = left.long(), top.long()

    def line(row: torch.Tensor) -> torch.Tensor:
        first, second = (_take(images, c, row).double() for c in (column, column + 1))
        return second.sub_(first).mul_(across).add_(first)

    upper = line(row)
    return line(row + 1).sub_(upper).mul_(down).add_(upper)


def rotate_tensor(
    images: torch.Tensor,
    degrees: torch.Tensor,
    bilinear: bool = False,
    center: tuple[float, float] | None = None,
    fill: float = 0,
) -> torch.Tensor:
    """Rotates every image by its own angle as torchvision rotates tensors, within its frame.

    Equal to torchvision's result but for the rounding of float32, which can take a pixel that lies
    between two from the other one.

    Args:
        images: [B, C, H, W], float or uint8.
        degrees: Angle of each image, counter-clockwise, [B].
        bilinear: Interpolate between four pixels instead of taking the nearest one.
        center: (x, y) of the center of rotation in pixels; None takes the image's.
        fill: Value outside the image.

    Returns:
        [B, C, H, W], same dtype.
    """
    height, width = images.shape[2:]
    x, y = (0.0, 0.0) if center is None else (center[0] - width / 2, center[1] - height / 2)
    cos, sin, shift_x, shift_y = (part.float() for part in _inverse(degrees, x, y))
    u = torch.arange(width, device=images.device) - (width - 1) / 2
    v = torch.arange(height, device=images.device)[:, None] - (height - 1) / 2
    grid = torch.stack(
        (
            (cos * u + sin * v + shift_x) / (width / 2),
            (-sin * u + cos * v + shift_y) / (height / 2),
        ),
        3,
    )
    floats = F.pad(images.float(), (0, 0, 0, 0, 0, 1), value=1)  # one more channel: the frame
    mode = "bilinear" if bilinear else "nearest"
    sampled = F.grid_sample(floats, grid, mode, "zeros", align_corners=False)
    pixels, frame = sampled[:, :-1], sampled[:, -1:]
    # Bilinear edges are weighted twice, as torchvision does.
    blended = frame * (pixels - fill) + fill
    pixels = blended if bilinear else torch.where(frame < 0.5, fill, pixels)
    return pixels if images.is_floating_point() else pixels.round().to(images.dtype)
