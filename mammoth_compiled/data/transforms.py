"""Turns torchvision transforms of one image into code for a batch on its device.

Every image gets its own random draw, from the same distribution as torchvision's. Given the draw,
Pillow images come out the same to the bit, but for resizing and bilinear rotation by 45 degrees,
which are within one level of 255. Colours and rotations of tensors differ by float32's rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torchvision import transforms as v1
from torchvision.transforms import v2

from mammoth_compiled.data import color_jitter, geometry
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
def batch_transform(transform: Any, pil: bool = True) -> Batched:
    """Returns the batched code of a torchvision transform (v1 or v2).

    Args:
        transform: A transform, a Compose, or None for the identity.
        pil: Whether bytes given to it stand for Pillow images, as datasets hand them over, or for
            tensors; the two are rounded in different ways.

    Raises:
        CannotBatchError: If a part of it cannot be turned.
    """
    return Batched(tuple(_stages(transform, pil)[0]))


def apply_transform(images: torch.Tensor, transform: Any) -> torch.Tensor:
    """Applies a torchvision transform to a batch, each image with random parameters of its own.

    Uses the batched version of the transform if there is one, else transforms image by image.

    Args:
        images: [B, C, H, W].
        transform: A transform of one image; None returns `images` unchanged.

    Returns:
        The transformed images on the device of `images`, [B, ...].

    Example:
        >>> import torch
        >>> from torchvision.transforms import Normalize
        >>> apply_transform(torch.ones(2, 1, 1, 1), Normalize((0.5,), (0.25,))).flatten()
        tensor([2., 2.])
    """
    if transform is None:
        return images
    try:
        batched = batch_transform(transform, pil=False)
    except (CannotBatchError, TypeError):  # TypeError: the transform is not hashable
        transformed = [transform(image) for image in images.cpu()]
        tensors = [t if torch.is_tensor(t) else torch.as_tensor(np.asarray(t)) for t in transformed]
        return torch.stack(tensors).to(images.device)
    return batched(images)


def _stages(transform: Any, pil: bool) -> tuple[list[BatchTransform], bool]:
    """Returns the stages, and whether bytes behind them stand for Pillow images."""
    if transform is None:
        return [], pil
    if isinstance(transform, (v1.Compose, v2.Compose)):
        stages: list[BatchTransform] = []
        parts = list(transform.transforms)
        while parts:
            part = parts.pop(0)
            if type(part) in CROPS and parts and type(parts[0]) in FLIPS:
                # One look-up of pixels instead of two passes; the draws are those of the two.
                more = [geometry.random_crop(part, parts.pop(0).p)]
            else:
                more, pil = _stages(part, pil)
            stages += more
        return stages, pil
    # Exactly these classes: a subclass may do something else.
    kind = type(transform)
    if kind in _TURNS_BY_FORM:
        return [_TURNS_BY_FORM[kind](transform, pil)], pil
    if kind not in _TURNS:
        raise CannotBatchError(kind.__name__)
    return [_TURNS[kind](transform)], _MAKES_PIL.get(kind, pil)


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

# Their arithmetic depends on what bytes stand for.
_TURNS_BY_FORM: dict[type, Callable[[Any, bool], BatchTransform]] = {
    v1.ColorJitter: color_jitter.color_jitter,
    v2.ColorJitter: color_jitter.color_jitter,
    v1.RandomRotation: geometry.random_rotation,
    v2.RandomRotation: geometry.random_rotation,
}

CROPS = (v1.RandomCrop, v2.RandomCrop)
FLIPS = (v1.RandomHorizontalFlip, v2.RandomHorizontalFlip)

_MAKES_PIL = {
    v1.ToPILImage: True,
    v2.ToPILImage: True,
    v1.ToTensor: False,
    v1.PILToTensor: False,
    v2.PILToTensor: False,
    v2.ToImage: False,
}
