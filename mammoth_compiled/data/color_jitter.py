"""Batched code of torchvision's ColorJitter."""

from typing import Any

import torch

from mammoth_compiled.data.geometry import BatchTransform
from mammoth_compiled.data.color import BYTES, FLOATS, PILLOW, jitter


def color_jitter(transform: Any, pil: bool) -> BatchTransform:
    """ColorJitter, with an order of its own for each image; bytes are Pillow images if `pil`."""
    ranges = (transform.brightness, transform.contrast, transform.saturation, transform.hue)
    of_bytes = PILLOW if pil else BYTES

    def apply(images: torch.Tensor) -> torch.Tensor:
        n, device = len(images), images.device
        order = torch.rand(n, 4, device=device).argsort(1)
        factors = [
            None if bounds is None else torch.empty(n, device=device).uniform_(*bounds)
            for bounds in ranges
        ]
        arithmetic = FLOATS if images.is_floating_point() else of_bytes
        return jitter(images, order, factors, arithmetic)

    return apply
