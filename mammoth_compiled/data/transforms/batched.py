"""Converts a torchvision transform of one image into functions of a batch on its device.

Every image has random parameters of its own, from the same distribution as in torchvision. Given
the same parameters, results for PIL images are bit-exact, except for resizing and for bilinear
rotation by odd multiples of 45 degrees, which are within one level of 255. Colors and rotations of
tensors differ by the rounding of float32.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torchvision import transforms as v1
from torchvision.transforms import v2

from mammoth_compiled.data.transforms.base import CONVERTERS, BatchFunction, CannotBatchError
from mammoth_compiled.data.transforms.crop import CROPS, FLIPS, crop_and_flip


@dataclass(frozen=True)
class BatchedTransform:
    """The batched version of a torchvision transform.

    Attributes:
        stages: Functions of images, [B, C, H, W], applied in order.
    """

    stages: tuple[BatchFunction, ...]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Transforms a batch.

        Args:
            images: uint8, or float in [0, 1], [B, C, H, W]. Not modified.

        Returns:
            [B, C, H', W'].
        """
        for stage in self.stages:
            images = stage(images)
        return images


@lru_cache(maxsize=128)
def batch_transform(transform: Any, is_pil: bool = True) -> BatchedTransform:
    """Returns the batched version of a torchvision transform.

    Args:
        transform: A transform (v1 or v2), a Compose, or None for the identity.
        is_pil: Whether uint8 images stand for PIL images, as in a dataset, or for tensors. The two
            are rounded differently.

    Raises:
        CannotBatchError: If a part of the transform has no batched version.
        TypeError: If the transform is not hashable.

    Example:
        >>> import torch
        >>> from torchvision import transforms
        >>> flip = batch_transform(transforms.RandomHorizontalFlip(p=1.0))
        >>> flip(torch.tensor([[[[1, 2, 3]]]], dtype=torch.uint8))
        tensor([[[[3, 2, 1]]]], dtype=torch.uint8)
    """
    return BatchedTransform(tuple(_stages(transform, is_pil)[0]))


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
        batched = batch_transform(transform, is_pil=False)
    except (CannotBatchError, TypeError):  # TypeError: the transform is not hashable
        transformed = [transform(image) for image in images.cpu()]
        tensors = [t if torch.is_tensor(t) else torch.as_tensor(np.asarray(t)) for t in transformed]
        return torch.stack(tensors).to(images.device)
    return batched(images)


def _stages(transform: Any, is_pil: bool) -> tuple[list[BatchFunction], bool]:
    """Returns the stages, and whether their uint8 outputs stand for PIL images."""
    if transform is None:
        return [], is_pil
    if isinstance(transform, (v1.Compose, v2.Compose)):
        stages: list[BatchFunction] = []
        parts = list(transform.transforms)
        while parts:
            part = parts.pop(0)
            if type(part) in CROPS and parts and type(parts[0]) in FLIPS:
                # One gather instead of two passes, with the same random numbers.
                converted = [crop_and_flip(part, flip_probability=parts.pop(0).p)]
            else:
                converted, is_pil = _stages(part, is_pil)
            stages += converted
        return stages, is_pil
    kind = type(transform)
    if kind not in CONVERTERS:
        raise CannotBatchError(kind.__name__)
    converter = CONVERTERS[kind]
    stage = converter.convert(transform, is_pil)
    return [stage], is_pil if converter.output_is_pil is None else converter.output_is_pil
