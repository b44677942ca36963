"""The registry of converters from a torchvision transform to its batched version."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

BatchFunction = Callable[[torch.Tensor], torch.Tensor]
Convert = Callable[[Any, bool], BatchFunction]


class CannotBatchError(Exception):
    """A transform without a batched version; the message names the transform."""


@dataclass(frozen=True)
class Converter:
    """How transforms of one class become batched.

    Attributes:
        convert: Called with the transform, and with whether uint8 images stand for PIL images
            (they are rounded differently from tensors). Returns a function of images,
            [B, C, H, W], uint8 or float in [0, 1], with random parameters of its own for each
            image. Raises `CannotBatchError` for options that it does not support.
        output_is_pil: Whether uint8 outputs stand for PIL images; None if that does not change.
    """

    convert: Convert
    output_is_pil: bool | None = None


CONVERTERS: dict[type, Converter] = {}


def converts(*classes: type, output_is_pil: bool | None = None) -> Callable[[Convert], Convert]:
    """Returns a decorator that registers a function as `Converter.convert`.

    Args:
        classes: Classes of torchvision transforms. Subclasses are not included, because they may
            do something else.
        output_is_pil: See `Converter`.

    Example:
        >>> from torchvision import transforms
        >>> @converts(transforms.RandomInvert)
        ... def random_invert(transform, is_pil):
        ...     if transform.p < 1:
        ...         raise CannotBatchError("RandomInvert with p < 1")
        ...     return lambda images: (1 if images.is_floating_point() else 255) - images
        >>> CONVERTERS.pop(transforms.RandomInvert).convert is random_invert
        True
    """

    def register(convert: Convert) -> Convert:
        for kind in classes:
            CONVERTERS[kind] = Converter(convert, output_is_pil)
        return convert

    return register


def interpolation_name(transform: Any) -> str:
    """Returns the name of the interpolation mode; v1 stores an enum member, v2 its value."""
    return getattr(transform.interpolation, "value", transform.interpolation)
