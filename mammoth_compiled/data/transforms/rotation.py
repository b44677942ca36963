"""Batched RandomRotation, in the arithmetic of Pillow on bytes and of torchvision on tensors."""

import math
from typing import Any

import torch
from torch.nn import functional as F
from torchvision import transforms as v1
from torchvision.transforms import InterpolationMode, v2

from mammoth_compiled.data.transforms.base import (
    BatchFunction,
    CannotBatchError,
    converts,
    interpolation_name,
)


@converts(v1.RandomRotation, v2.RandomRotation)
def random_rotation(transform: Any, is_pil: bool) -> BatchFunction:
    """Converts RandomRotation without expansion, nearest or bilinear."""
    mode = interpolation_name(transform)
    if mode not in (InterpolationMode.NEAREST.value, InterpolationMode.BILINEAR.value):
        raise CannotBatchError(f"RandomRotation with interpolation {mode}")
    if transform.expand:
        raise CannotBatchError("RandomRotation with expand")
    fill = transform.fill
    if not isinstance(fill, (int, float)):
        raise CannotBatchError("RandomRotation with a fill per channel")
    if is_pil and fill not in range(256):
        raise CannotBatchError(f"RandomRotation of bytes with the fill {fill}")
    low, high = (float(bound) for bound in transform.degrees)
    bilinear = mode == InterpolationMode.BILINEAR.value
    center = None if transform.center is None else tuple(transform.center)

    def apply(images: torch.Tensor) -> torch.Tensor:
        degrees = torch.empty(len(images), device=images.device).uniform_(low, high)
        if is_pil and images.dtype == torch.uint8:
            return rotate_pillow(images, degrees, bilinear, center, int(fill))
        return rotate_tensor(images, degrees, bilinear, center, fill)

    return apply


def rotate_pillow(
    images: torch.Tensor,
    degrees: torch.Tensor,
    bilinear: bool = False,
    center: tuple[float, float] | None = None,
    fill: int = 0,
) -> torch.Tensor:
    """Rotates every image by its own angle like Pillow, without changing the image size.

    Pillow rounds sine and cosine to 15 decimals, and finds the nearest pixel in fixed point. No
    angle is known at which the nearest pixel differs from Pillow's. Bilinear values differ by one
    level where they are integers in exact arithmetic: a few pixels at odd multiples of 45 degrees.

    Args:
        images: uint8, [B, C, H, W], with H and W less than 2^15.
        degrees: Angle of each image, counterclockwise, [B].
        bilinear: True interpolates between four pixels; False takes the nearest one.
        center: (x, y) of the center of rotation in pixels from the upper left corner; None for the
            center of the image.
        fill: Value outside the image, 0 to 255.

    Returns:
        uint8, [B, C, H, W].

    Example:
        >>> import torch
        >>> images = torch.tensor([[[[1, 2], [3, 4]]]], dtype=torch.uint8)
        >>> rotate_pillow(images, torch.tensor([90.0]))[0, 0]
        tensor([[2, 4],
                [1, 3]], dtype=torch.uint8)
    """
    height, width = images.shape[2:]
    cos, sin, shift_x, shift_y = _inverse_rotation(degrees, *(center or (width / 2, height / 2)))
    x = torch.arange(width, device=images.device)
    y = torch.arange(height, device=images.device)[:, None]
    if bilinear:
        x_in = cos * (x + 0.5) + sin * (y + 0.5) + shift_x
        y_in = -sin * (x + 0.5) + cos * (y + 0.5) + shift_y
        inside = (x_in >= 0) & (x_in < width) & (y_in >= 0) & (y_in < height)
        pixels = _interpolate(images, x_in - 0.5, y_in - 0.5).to(images.dtype)
    else:
        # In units of 2^-16 pixels, accumulated from the center of the first pixel.
        dx, dy = _to_fixed_point(cos), _to_fixed_point(sin)
        column = _to_fixed_point(shift_x + cos * 0.5 + sin * 0.5) + dx * x + dy * y >> 16
        row = (
            _to_fixed_point(shift_y - sin * 0.5 + cos * 0.5) + _to_fixed_point(-sin) * x + dx * y
            >> 16
        )
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        pixels = _gather_pixels(images, column, row)
    return torch.where(inside[:, None], pixels, fill)


def _inverse_rotation(
    degrees: torch.Tensor, x: float, y: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the inverse rotation about (x, y) as cos, sin, shift_x and shift_y.

    A pixel at (u, v) comes from (cos u + sin v + shift_x, -sin u + cos v + shift_y). Each is
    float64, [B, 1, 1].
    """
    angle = degrees.double().remainder(360)[:, None, None] * -(math.pi / 180)
    cos, sin = (f.round(decimals=15) for f in (angle.cos(), angle.sin()))
    return cos, sin, cos * -x + sin * -y + x, -sin * -x + cos * -y + y


def _to_fixed_point(value: torch.Tensor) -> torch.Tensor:
    return (value * 65536 + 0.5).floor().long()


def _gather_pixels(images: torch.Tensor, column: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    """Returns the pixels, [B, C, H, W], at columns and rows, [B, H, W], clamped to the image."""
    batch, channels, height, width = images.shape
    index = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    index = index.view(batch, 1, height * width).expand(batch, channels, height * width)
    return images.flatten(2).gather(2, index).view_as(images)


def _interpolate(images: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Returns bilinear values, float64, [B, C, H, W], at x and y, each [B, H, W]."""
    left, top = x.floor(), y.floor()
    across, down = (x - left)[:, None], (y - top)[:, None]
    column, row = left.long(), top.long()

    def line(row: torch.Tensor) -> torch.Tensor:
        first, second = (_gather_pixels(images, c, row).double() for c in (column, column + 1))
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
    """Rotates every image by its own angle like torchvision rotates tensors.

    The image size does not change. Results equal those of torchvision except for the rounding of
    float32, which can select the other neighbor of a pixel that lies halfway between two.

    Args:
        images: float or uint8, [B, C, H, W].
        degrees: Angle of each image, counterclockwise, [B].
        bilinear: True interpolates between four pixels; False takes the nearest one.
        center: (x, y) of the center of rotation in pixels from the upper left corner; None for the
            center of the image.
        fill: Value outside the image.

    Returns:
        [B, C, H, W], dtype of `images`.
    """
    height, width = images.shape[2:]
    x, y = (0.0, 0.0) if center is None else (center[0] - width / 2, center[1] - height / 2)
    cos, sin, shift_x, shift_y = (part.float() for part in _inverse_rotation(degrees, x, y))
    u = torch.arange(width, device=images.device) - (width - 1) / 2
    v = torch.arange(height, device=images.device)[:, None] - (height - 1) / 2
    grid = torch.stack(
        (
            (cos * u + sin * v + shift_x) / (width / 2),
            (-sin * u + cos * v + shift_y) / (height / 2),
        ),
        3,
    )
    floats = F.pad(
        images.float(), (0, 0, 0, 0, 0, 1), value=1
    )  # the last channel is a mask of the image
    mode = "bilinear" if bilinear else "nearest"
    sampled = F.grid_sample(floats, grid, mode, "zeros", align_corners=False)
    pixels, mask = sampled[:, :-1], sampled[:, -1:]
    # Bilinear edges are weighted twice, like in torchvision.
    blended = mask * (pixels - fill) + fill
    pixels = blended if bilinear else torch.where(mask < 0.5, fill, pixels)
    return pixels if images.is_floating_point() else pixels.round().to(images.dtype)
