"""Batched RandomCrop, RandomHorizontalFlip and CenterCrop."""

from typing import Any

import torch
from torch.nn import functional as F
from torchvision import transforms as v1
from torchvision.transforms import v2

from mammoth_compiled.data.transforms.base import BatchFunction, CannotBatchError, converts
from mammoth_compiled.kernels.augment import crop_flip

CROPS = (v1.RandomCrop, v2.RandomCrop)
FLIPS = (v1.RandomHorizontalFlip, v2.RandomHorizontalFlip)


@converts(*CROPS)
def random_crop(transform: Any, is_pil: bool) -> BatchFunction:
    """Converts RandomCrop with constant padding."""
    return crop_and_flip(transform, flip_probability=None)


def crop_and_flip(transform: Any, flip_probability: float | None) -> BatchFunction:
    """Converts RandomCrop with constant padding together with the RandomHorizontalFlip behind it.

    Args:
        transform: RandomCrop.
        flip_probability: Probability of a flip; None if no RandomHorizontalFlip follows.

    Raises:
        CannotBatchError: If the crop pads in another way or has a fill per channel.
    """
    if transform.padding_mode != "constant" or transform.pad_if_needed:
        raise CannotBatchError("RandomCrop with pad_if_needed or another padding_mode")
    fill = transform.fill
    if not isinstance(fill, (int, float)):
        raise CannotBatchError("RandomCrop with a fill per channel")
    height, width = transform.size
    left, top, right, bottom = crop_padding(transform)

    def apply(images: torch.Tensor) -> torch.Tensor:
        padded = images.shape[2] + top + bottom, images.shape[3] + left + right
        rows, columns = padded[0] - height, padded[1] - width
        if rows < 0 or columns < 0:
            raise ValueError(
                f"RandomCrop(({height}, {width})) is larger than the padded image {padded}"
            )
        n, device = len(images), images.device
        first_rows = torch.randint(rows + 1, (n,), device=device)
        first_columns = torch.randint(columns + 1, (n,), device=device)
        if flip_probability is None:
            is_flipped = torch.zeros(n, dtype=torch.bool, device=device)
        else:
            is_flipped = torch.rand(n, device=device) < flip_probability
        return crop_flip(
            images,
            first_rows,
            first_columns,
            is_flipped,
            (height, width),
            (left, right, top, bottom),
            fill,
        )

    return apply


def crop_padding(transform: Any) -> tuple[int, int, int, int]:
    """Returns the padding of a RandomCrop as (left, top, right, bottom), pixels.

    Example:
        >>> from torchvision import transforms
        >>> crop_padding(transforms.RandomCrop(32, padding=(1, 2)))
        (1, 2, 1, 2)
    """
    padding = transform.padding
    if padding is None:
        return 0, 0, 0, 0
    sides = [padding] if isinstance(padding, int) else list(padding)
    if len(sides) == 1:
        return sides[0], sides[0], sides[0], sides[0]
    if len(sides) == 2:
        return sides[0], sides[1], sides[0], sides[1]
    if isinstance(transform, v2.RandomCrop):  # v2 stores left, right, top, bottom
        return sides[0], sides[2], sides[1], sides[3]
    return sides[0], sides[1], sides[2], sides[3]


@converts(*FLIPS)
def horizontal_flip(transform: Any, is_pil: bool) -> BatchFunction:
    """Converts RandomHorizontalFlip."""
    probability = transform.p

    def apply(images: torch.Tensor) -> torch.Tensor:
        is_flipped = torch.rand(len(images), device=images.device) < probability
        return torch.where(is_flipped[:, None, None, None], images.flip(3), images)

    return apply


@converts(v1.CenterCrop, v2.CenterCrop)
def center_crop(transform: Any, is_pil: bool) -> BatchFunction:
    """Converts CenterCrop, which pads smaller images with zeros."""
    size = transform.size
    height, width = (size, size) if isinstance(size, int) else (size[0], size[-1])

    def apply(images: torch.Tensor) -> torch.Tensor:
        rows, columns = height - images.shape[2], width - images.shape[3]
        if rows > 0 or columns > 0:
            above, before = max(rows, 0) // 2, max(columns, 0) // 2
            after, below = (max(columns, 0) + 1) // 2, (max(rows, 0) + 1) // 2
            images = F.pad(images, (before, after, above, below))
        # Rounds half to even, like torchvision.
        top = round((images.shape[2] - height) / 2.0)
        left = round((images.shape[3] - width) / 2.0)
        return images[:, :, top : top + height, left : left + width]

    return apply
