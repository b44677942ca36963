"""Turns torchvision transforms of one image into code for a batch on its device.

Every image gets its own random draw, from the same distribution as torchvision's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torchvision import transforms as v1
from torchvision.transforms import v2

from mammoth_compiled.kernels.augment import crop_flip

BatchTransform = Callable[[torch.Tensor], torch.Tensor]


class CannotBatchError(Exception):
    """A transform for which there is no batched code; the message names it."""


@dataclass(frozen=True)
class Batched:
    """A chain of batched stages that stands for a torchvision transform."""

    stages: tuple[BatchTransform, ...]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Transforms a batch.

        Args:
            images: [B, C, H, W], uint8 in 0..255 or float in [0, 1].
        """
        for stage in self.stages:
            images = stage(images)
        return images


@lru_cache(maxsize=128)
def batch_transform(transform: Any) -> Batched:
    """Returns the batched code of a torchvision transform (v1 or v2).

    Args:
        transform: A transform, a Compose, or None for the identity.

    Raises:
        CannotBatchError: If a part of it cannot be turned.
    """
    return Batched(tuple(_stages(transform)))


def _stages(transform: Any) -> list[BatchTransform]:
    if transform is None:
        return []
    if isinstance(transform, (v1.Compose, v2.Compose)):
        return [stage for part in transform.transforms for stage in _stages(part)]
    # Exactly these classes: a subclass may do something else.
    turn = _TURNS.get(type(transform))
    if turn is None:
        raise CannotBatchError(type(transform).__name__)
    return turn(transform)


def _to_pil(transform: Any) -> list[BatchTransform]:
    if transform.mode not in (None, "RGB", "L"):
        raise CannotBatchError(f"ToPILImage(mode={transform.mode!r})")
    return [to_bytes]


def to_bytes(images: torch.Tensor) -> torch.Tensor:
    """Returns what ToPILImage makes of float images in [0, 1]: uint8, fraction cut off."""
    return images.mul(255).byte() if images.is_floating_point() else images


def to_float(images: torch.Tensor) -> torch.Tensor:
    """Returns what ToTensor makes of byte images: float in [0, 1]."""
    return images if images.is_floating_point() else images.float().div_(255)


def _crop(transform: Any) -> list[BatchTransform]:
    if transform.padding_mode != "constant" or transform.pad_if_needed:
        raise CannotBatchError("RandomCrop with pad_if_needed or another padding_mode")
    fill = transform.fill
    if not isinstance(fill, (int, float)):
        raise CannotBatchError("RandomCrop with a fill per channel")
    height, width = transform.size
    left, top, right, bottom = _four_sides(transform)

    def crop(images: torch.Tensor) -> torch.Tensor:
        rows = images.shape[2] + top + bottom - height
        columns = images.shape[3] + left + right - width
        if rows < 0 or columns < 0:
            raise ValueError(
                f"RandomCrop(({height}, {width})) is larger than the padded image "
                f"({images.shape[2] + top + bottom}, {images.shape[3] + left + right})"
            )
        n, device = len(images), images.device
        return crop_flip(
            images,
            torch.randint(rows + 1, (n,), device=device),
            torch.randint(columns + 1, (n,), device=device),
            torch.zeros(n, dtype=torch.bool, device=device),
            (height, width),
            (left, right, top, bottom),
            fill,
        )

    return [crop]


def _four_sides(transform: Any) -> tuple[int, int, int, int]:
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


def _flip(transform: Any) -> list[BatchTransform]:
    p = transform.p

    def flip(images: torch.Tensor) -> torch.Tensor:
        mirrored = torch.rand(len(images), device=images.device) < p
        return torch.where(mirrored[:, None, None, None], images.flip(3), images)

    return [flip]


def _normalise(transform: Any) -> list[BatchTransform]:
    mean = torch.as_tensor(transform.mean, dtype=torch.float32).view(-1, 1, 1)
    std = torch.as_tensor(transform.std, dtype=torch.float32).view(-1, 1, 1)
    placed: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}

    def normalise(images: torch.Tensor) -> torch.Tensor:
        if images.device not in placed:
            placed[images.device] = mean.to(images.device), std.to(images.device)
        m, s = placed[images.device]
        return images.sub(m).div_(s)

    return [normalise]


_TURNS: dict[type, Callable[[Any], list[BatchTransform]]] = {
    v1.ToPILImage: _to_pil,
    v1.ToTensor: lambda _: [to_float],
    v1.RandomCrop: _crop,
    v2.RandomCrop: _crop,
    v1.RandomHorizontalFlip: _flip,
    v2.RandomHorizontalFlip: _flip,
    v1.Normalize: _normalise,
    v2.Normalize: _normalise,
}
