"""Batched code of torchvision's transforms that move pixels: crops, flips, resizing, rotation."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F
from torchvision import transforms as v1
from torchvision.transforms import InterpolationMode, v2

from mammoth_compiled.kernels.augment import crop_flip
from mammoth_compiled.data.resampling import crop_resize
from mammoth_compiled.data.rotation import rotate_pillow, rotate_tensor

BatchTransform = Callable[[torch.Tensor], torch.Tensor]


class CannotBatchError(Exception):
    """A transform for which there is no batched code; the message names it."""


def random_crop(transform: Any, flip: float | None = None) -> BatchTransform:
    """RandomCrop with constant padding, then maybe RandomHorizontalFlip of probability `flip`."""
    if transform.padding_mode != "constant" or transform.pad_if_needed:
        raise CannotBatchError("RandomCrop with pad_if_needed or another padding_mode")
    fill = transform.fill
    if not isinstance(fill, (int, float)):
        raise CannotBatchError("RandomCrop with a fill per channel")
    height, width = transform.size
    left, top, right, bottom = four_sides(transform)

    def crop(images: torch.Tensor) -> torch.Tensor:
        rows = images.shape[2] + top + bottom - height
        columns = images.shape[3] + left + right - width
        if rows < 0 or columns < 0:
            raise ValueError(
                f"RandomCrop(({height}, {width})) is larger than the padded image "
                f"({images.shape[2] + top + bottom}, {images.shape[3] + left + right})"
            )
        n, device = len(images), images.device
        first_rows = torch.randint(rows + 1, (n,), device=device)
        first_columns = torch.randint(columns + 1, (n,), device=device)
        if flip is None:
            mirrored = torch.zeros(n, dtype=torch.bool, device=device)
        else:
            mirrored = torch.rand(n, device=device) < flip
        return crop_flip(
            images,
            first_rows,
            first_columns,
            mirrored,
            (height, width),
            (left, right, top, bottom),
            fill,
        )

    return crop


def four_sides(transform: Any) -> tuple[int, int, int, int]:
    """Returns (left, top, right, bottom) of a RandomCrop's padding."""
    padding = transform.padding
    if padding is None:
        return 0, 0, 0, 0
    sides = [padding] if isinstance(padding, int) else list(padding)
    if len(sides) == 1:
        return sides[0], sides[0], sides[0], sides[0]
    if len(sides) == 2:
        return sides[0], sides[1], sides[0], sides[1]
    if isinstance(transform, v2.RandomCrop):  # it keeps left, right, top, bottom
        return sides[0], sides[2], sides[1], sides[3]
    return sides[0], sides[1], sides[2], sides[3]


def horizontal_flip(transform: Any) -> BatchTransform:
    """RandomHorizontalFlip."""
    p = transform.p

    def flip(images: torch.Tensor) -> torch.Tensor:
        mirrored = torch.rand(len(images), device=images.device) < p
        return torch.where(mirrored[:, None, None, None], images.flip(3), images)

    return flip


def centre_crop(transform: Any) -> BatchTransform:
    """CenterCrop; smaller images are padded with zeros."""
    size = transform.size
    height, width = (size, size) if isinstance(size, int) else (size[0], size[-1])

    def crop(images: torch.Tensor) -> torch.Tensor:
        rows, columns = height - images.shape[2], width - images.shape[3]
        if rows > 0 or columns > 0:
            above, before = max(rows, 0) // 2, max(columns, 0) // 2
            after, below = (max(columns, 0) + 1) // 2, (max(rows, 0) + 1) // 2
            images = F.pad(images, (before, after, above, below))
        # Rounded as torchvision rounds, half to even.
        top = round((images.shape[2] - height) / 2.0)
        left = round((images.shape[3] - width) / 2.0)
        return images[:, :, top : top + height, left : left + width]

    return crop


def resize(transform: Any) -> BatchTransform:
    """Resize, bilinear; a single number is the shorter side."""
    _need_bilinear(transform)
    if getattr(transform, "max_size", None) is not None:
        raise CannotBatchError("Resize with max_size")
    size = transform.size

    def apply(images: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[2:]
        target = _target_size(height, width, size)
        if target == (height, width):
            return images
        zero = torch.zeros(1, device=images.device)
        return crop_resize(images, zero, zero, zero + height, zero + width, target)

    return apply


def _target_size(height: int, width: int, size: Any) -> tuple[int, int]:
    if not isinstance(size, int) and len(size) == 2:
        return size[0], size[1]
    short = size if isinstance(size, int) else size[0]
    if width <= height:
        return int(short * height / width), short
    return short, int(short * width / height)


def random_resized_crop(transform: Any) -> BatchTransform:
    """RandomResizedCrop, bilinear."""
    _need_bilinear(transform)
    scale, ratio, size = transform.scale, transform.ratio, (transform.size[0], transform.size[-1])

    def crop(images: torch.Tensor) -> torch.Tensor:
        box = _random_boxes(len(images), images.shape[2], images.shape[3], scale, ratio)
        top, left, rows, columns = (side.to(images.device) for side in box)
        return crop_resize(images, top, left, rows, columns, size)

    return crop


def _random_boxes(
    n: int, height: int, width: int, scale: Any, ratio: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draws (top, left, height, width), each [n]: ten tries, then the largest central box."""
    area = height * width * torch.empty(n, 10).uniform_(*scale)
    aspect = torch.empty(n, 10).uniform_(math.log(ratio[0]), math.log(ratio[1])).exp_()
    w = (area * aspect).sqrt_().round_().long()
    h = (area / aspect).sqrt_().round_().long()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.int().argmax(1, keepdim=True)
    w, h = w.gather(1, first)[:, 0], h.gather(1, first)[:, 0]
    top = (torch.rand(n, dtype=torch.float64) * (height - h + 1)).long()
    left = (torch.rand(n, dtype=torch.float64) * (width - w + 1)).long()
    central_w, central_h = width, height
    if width / height < min(ratio):
        central_h = round(width / min(ratio))
    elif width / height > max(ratio):
        central_w = round(height * max(ratio))
    none = ~fits.any(1)
    w, h = w.masked_fill(none, central_w), h.masked_fill(none, central_h)
    top = top.masked_fill(none, (height - central_h) // 2)
    left = left.masked_fill(none, (width - central_w) // 2)
    return top, left, h, w


def _need_bilinear(transform: Any) -> None:
    # v2 keeps the mode's name.
    mode = getattr(transform.interpolation, "value", transform.interpolation)
    if mode != InterpolationMode.BILINEAR.value:
        raise CannotBatchError(f"{type(transform).__name__} with interpolation {mode}")
    if transform.antialias is False:
        raise CannotBatchError(f"{type(transform).__name__} without antialias")


def random_rotation(transform: Any, pil: bool) -> BatchTransform:
    """RandomRotation within the frame, nearest or bilinear; bytes are Pillow images if `pil`."""
    mode = getattr(transform.interpolation, "value", transform.interpolation)
    if mode not in (InterpolationMode.NEAREST.value, InterpolationMode.BILINEAR.value):
        raise CannotBatchError(f"RandomRotation with interpolation {mode}")
    if transform.expand:
        raise CannotBatchError("RandomRotation with expand")
    fill = transform.fill
    if not isinstance(fill, (int, float)):
        raise CannotBatchError("RandomRotation with a fill per channel")
    if pil and fill not in range(256):
        raise CannotBatchError(f"RandomRotation of bytes with the fill {fill}")
    low, high = (float(bound) for bound in transform.degrees)
    bilinear = mode == InterpolationMode.BILINEAR.value
    centre = None if transform.center is None else tuple(transform.center)

    def rotate(images: torch.Tensor) -> torch.Tensor:
        degrees = torch.empty(len(images), device=images.device).uniform_(low, high)
        if pil and images.dtype == torch.uint8:
            return rotate_pillow(images, degrees, bilinear, centre, int(fill))
        return rotate_tensor(images, degrees, bilinear, centre, fill)

    return rotate


TURNS: dict[type, Callable[[Any], BatchTransform]] = {
    v1.RandomCrop: random_crop,
    v2.RandomCrop: random_crop,
    v1.RandomHorizontalFlip: horizontal_flip,
    v2.RandomHorizontalFlip: horizontal_flip,
    v1.CenterCrop: centre_crop,
    v2.CenterCrop: centre_crop,
    v1.Resize: resize,
    v2.Resize: resize,
    v1.RandomResizedCrop: random_resized_crop,
    v2.RandomResizedCrop: random_resized_crop,
}
