"""Batched Resize and RandomResizedCrop, with the antialiased bilinear filter of Pillow.

The filter is a triangle as wide as the distance between output pixels. It is applied as two batched
matrix products, one per dimension, whose matrices hold its weights.
"""

import math
from typing import Any, NamedTuple

import torch
from torchvision import transforms as v1
from torchvision.transforms import InterpolationMode, v2

from mammoth_compiled.data.transforms.base import (
    BatchFunction,
    CannotBatchError,
    converts,
    interpolation_name,
)


class Boxes(NamedTuple):
    """One box per image, in pixels.

    Attributes:
        top: First row of each box, [B].
        left: First column of each box, [B].
        height: Rows of each box, [B].
        width: Columns of each box, [B].
    """

    top: torch.Tensor
    left: torch.Tensor
    height: torch.Tensor
    width: torch.Tensor


@converts(v1.Resize, v2.Resize)
def resize(transform: Any, is_pil: bool) -> BatchFunction:
    """Converts bilinear Resize."""
    _require_bilinear(transform)
    if getattr(transform, "max_size", None) is not None:
        raise CannotBatchError("Resize with max_size")
    size = transform.size

    def apply(images: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[2:]
        target = _target_size(height, width, size)
        if target == (height, width):
            return images
        zero = torch.zeros(1, device=images.device)
        return crop_resize(images, Boxes(zero, zero, zero + height, zero + width), target)

    return apply


def _target_size(height: int, width: int, size: Any) -> tuple[int, int]:
    """Returns (height, width) for a size of torchvision: a single number is the shorter side."""
    if not isinstance(size, int) and len(size) == 2:
        return size[0], size[1]
    short = size if isinstance(size, int) else size[0]
    if width <= height:
        return int(short * height / width), short
    return short, int(short * width / height)


@converts(v1.RandomResizedCrop, v2.RandomResizedCrop)
def random_resized_crop(transform: Any, is_pil: bool) -> BatchFunction:
    """Converts bilinear RandomResizedCrop."""
    _require_bilinear(transform)
    scale, ratio, size = transform.scale, transform.ratio, (transform.size[0], transform.size[-1])

    def apply(images: torch.Tensor) -> torch.Tensor:
        n, _, height, width = images.shape
        boxes = random_boxes(n, height, width, scale, ratio, images.device)
        return crop_resize(images, boxes, size)

    return apply


def random_boxes(
    n: int,
    height: int,
    width: int,
    scale: Any,
    ratio: Any,
    device: torch.device | None = None,
) -> Boxes:
    """Draws boxes like RandomResizedCrop: the first of ten tries that fits, else a central box.

    Args:
        n: Number of boxes, B.
        height: Rows of the image.
        width: Columns of the image.
        scale: Range of the area of a box relative to the image.
        ratio: Range of the aspect ratio, width / height.
        device: Where they are drawn, so that a captured step draws new ones; None for the CPU.

    Returns:
        The boxes, int64.
    """
    area = height * width * torch.empty(n, 10, device=device).uniform_(*scale)
    aspect = (
        torch.empty(n, 10, device=device).uniform_(math.log(ratio[0]), math.log(ratio[1])).exp_()
    )
    w = (area * aspect).sqrt_().round_().long()
    h = (area / aspect).sqrt_().round_().long()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.int().argmax(1, keepdim=True)
    w, h = w.gather(1, first)[:, 0], h.gather(1, first)[:, 0]
    top = (torch.rand(n, dtype=torch.float64, device=device) * (height - h + 1)).long()
    left = (torch.rand(n, dtype=torch.float64, device=device) * (width - w + 1)).long()
    central_w, central_h = width, height
    if width / height < min(ratio):
        central_h = round(width / min(ratio))
    elif width / height > max(ratio):
        central_w = round(height * max(ratio))
    none = ~fits.any(1)
    w, h = w.masked_fill(none, central_w), h.masked_fill(none, central_h)
    top = top.masked_fill(none, (height - central_h) // 2)
    left = left.masked_fill(none, (width - central_w) // 2)
    return Boxes(top, left, h, w)


def _require_bilinear(transform: Any) -> None:
    mode = interpolation_name(transform)
    if mode != InterpolationMode.BILINEAR.value:
        raise CannotBatchError(f"{type(transform).__name__} with interpolation {mode}")
    if transform.antialias is False:
        raise CannotBatchError(f"{type(transform).__name__} without antialias")


def crop_resize(images: torch.Tensor, boxes: Boxes, size: tuple[int, int]) -> torch.Tensor:
    """Crops a box from every image and resizes it.

    Args:
        images: uint8 or float, [B, C, H, W].
        boxes: One box per image, or one for all.
        size: (height, width) of the result, pixels.

    Returns:
        [B, C, *size], dtype of `images`. Bytes are rounded after each pass, like in Pillow, and
        stay within one level of its result.

    Example:
        >>> import torch
        >>> images, one = torch.tensor([[[[0.0, 1.0]]]]), torch.ones(1)
        >>> crop_resize(images, Boxes(0 * one, 0 * one, one, 2 * one), (1, 4)).flatten()
        tensor([0.0000, 0.2500, 0.7500, 1.0000])
    """
    columns = filter_matrix(boxes.left, boxes.width, images.shape[3], size[1])
    rows = filter_matrix(boxes.top, boxes.height, images.shape[2], size[0])
    if images.is_floating_point():
        return rows[:, None] @ (images @ columns.mT[:, None])
    # Rounds half up, like Pillow.
    resized_rows = (images.float() @ columns.mT[:, None]).add_(0.5).floor_()
    resized = (rows[:, None] @ resized_rows).add_(0.5).floor_()
    return resized.clamp_(0, 255).to(images.dtype)


def filter_matrix(
    start: torch.Tensor, length: torch.Tensor, num_inputs: int, num_outputs: int
) -> torch.Tensor:
    """Returns the filter weights that resize a segment of each line.

    Args:
        start: First pixel of the segment, [B].
        length: Pixels of the segment, [B].
        num_inputs: Pixels of the line, N.
        num_outputs: Pixels of the result, M.

    Returns:
        Float weights, [B, M, N]; each row sums to 1.
    """
    device = start.device
    begin, span = start.float()[:, None, None], length.float()[:, None, None]
    step = span / num_outputs
    center = begin + (torch.arange(num_outputs, device=device)[:, None] + 0.5) * step
    middle = torch.arange(num_inputs, device=device) + 0.5
    weights = (1 - (middle - center).abs() / step.clamp(min=1)).clamp_(min=0)
    inside = (middle > begin) & (middle < begin + span)
    weights = torch.where(inside, weights, 0.0)
    return weights / weights.sum(2, keepdim=True)
