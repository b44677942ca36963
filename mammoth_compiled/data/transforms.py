"""Turns torchvision transforms of one image into code for a batch on its device.

Every image gets its own random draw, from the same distribution as torchvision's. Results are the
same to the bit, but for resizing, which is within one level of 255 of Pillow's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torchvision import transforms as v1
from torchvision.transforms import v2

from mammoth_compiled.data import geometry
from mammoth_compiled.data.geometry import BatchTransform, CannotBatchError


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
    return [turn(transform)]


def to_bytes(images: torch.Tensor) -> torch.Tensor:
    """Returns what ToPILImage makes of float images in [0, 1]: uint8, fraction cut off."""
    return images.mul(255).byte() if images.is_floating_point() else images


def to_float(images: torch.Tensor) -> torch.Tensor:
    """Returns what ToTensor makes of byte images: float in [0, 1]."""
    return images if images.is_floating_point() else images.float().div_(255)


def _to_pil(transform: Any) -> BatchTransform:
    if transform.mode not in (None, "RGB", "L"):
        raise CannotBatchError(f"ToPILImage(mode={transform.mode!r})")
    return to_bytes


def _same(images: torch.Tensor) -> torch.Tensor:
    return images


def _to_dtype(transform: Any) -> BatchTransform:
    scales = getattr(transform, "scale", True)
    if transform.dtype != torch.float32 or not scales:
        raise CannotBatchError(f"{type(transform).__name__} other than to scaled float32")
    return to_float


def _normalise(transform: Any) -> BatchTransform:
    mean = torch.as_tensor(transform.mean, dtype=torch.float32).view(-1, 1, 1)
    std = torch.as_tensor(transform.std, dtype=torch.float32).view(-1, 1, 1)
    placed: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}

    def normalise(images: torch.Tensor) -> torch.Tensor:
        if images.device not in placed:
            placed[images.device] = mean.to(images.device), std.to(images.device)
        m, s = placed[images.device]
        return images.sub(m).div_(s)

    return normalise


_TURNS: dict[type, Callable[[Any], BatchTransform]] = {
    **geometry.TURNS,
    v1.ToPILImage: _to_pil,
    v2.ToPILImage: _to_pil,
    v1.ToTensor: lambda _: to_float,
    v1.PILToTensor: lambda _: _same,
    v2.PILToTensor: lambda _: _same,
    v2.ToImage: lambda _: _same,
    v1.ConvertImageDtype: _to_dtype,
    v2.ToDtype: _to_dtype,
    v1.Normalize: _normalise,
    v2.Normalize: _normalise,
}
