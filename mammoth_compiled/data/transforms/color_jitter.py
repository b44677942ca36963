"""Batched ColorJitter."""

from typing import Any

import torch
from torchvision import transforms as v1
from torchvision.transforms import v2

from mammoth_compiled.data.transforms.base import BatchFunction, converts
from mammoth_compiled.data.transforms.color import BYTES, FLOATS, PILLOW, jitter


@converts(v1.ColorJitter, v2.ColorJitter)
def color_jitter(transform: Any, is_pil: bool) -> BatchFunction:
    """Converts ColorJitter, with factors and an order of its own for each image."""
    ranges = (transform.brightness, transform.contrast, transform.saturation, transform.hue)
    byte_arithmetic = PILLOW if is_pil else BYTES

    def apply(images: torch.Tensor) -> torch.Tensor:
        n, device = len(images), images.device
        order = torch.rand(n, 4, device=device).argsort(1)
        factors = [
            None if bounds is None else torch.empty(n, device=device).uniform_(*bounds)
            for bounds in ranges
        ]
        arithmetic = FLOATS if images.is_floating_point() else byte_arithmetic
        return jitter(images, order, factors, arithmetic)

    return apply
