"""Batched conversion between PIL images and tensors, and normalization."""

from typing import Any

import torch
from torchvision import transforms as v1
from torchvision.transforms import v2

from mammoth_compiled.data.transforms.base import BatchFunction, CannotBatchError, converts


def to_bytes(images: torch.Tensor) -> torch.Tensor:
    """Returns float images in [0, 1] as uint8, truncated like ToPILImage; uint8 unchanged."""
    return images.mul(255).byte() if images.is_floating_point() else images


def to_float(images: torch.Tensor) -> torch.Tensor:
    """Returns uint8 images as float in [0, 1] like ToTensor; float images unchanged."""
    return images if images.is_floating_point() else images.float().div_(255)


@converts(v1.ToPILImage, v2.ToPILImage, output_is_pil=True)
def to_pil_image(transform: Any, is_pil: bool) -> BatchFunction:
    """Converts ToPILImage for RGB and grayscale images."""
    if transform.mode not in (None, "RGB", "L"):
        raise CannotBatchError(f"ToPILImage(mode={transform.mode!r})")
    return to_bytes


@converts(v1.ToTensor, output_is_pil=False)
def to_tensor(transform: Any, is_pil: bool) -> BatchFunction:
    """Converts ToTensor."""
    return to_float


@converts(v1.PILToTensor, v2.PILToTensor, v2.ToImage, output_is_pil=False)
def pil_to_tensor(transform: Any, is_pil: bool) -> BatchFunction:
    """Converts PILToTensor and ToImage, which keep all values."""
    return _identity


def _identity(images: torch.Tensor) -> torch.Tensor:
    return images


@converts(v1.ConvertImageDtype, v2.ToDtype)
def to_dtype(transform: Any, is_pil: bool) -> BatchFunction:
    """Converts ConvertImageDtype and ToDtype to scaled float32."""
    if transform.dtype != torch.float32 or not getattr(transform, "scale", True):
        raise CannotBatchError(f"{type(transform).__name__} other than to scaled float32")
    return to_float


@converts(v1.Normalize, v2.Normalize)
def normalize(transform: Any, is_pil: bool) -> BatchFunction:
    """Converts Normalize."""
    mean = torch.as_tensor(transform.mean, dtype=torch.float32).view(-1, 1, 1)
    std = torch.as_tensor(transform.std, dtype=torch.float32).view(-1, 1, 1)
    by_device: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}

    def apply(images: torch.Tensor) -> torch.Tensor:
        if images.device not in by_device:
            by_device[images.device] = mean.to(images.device), std.to(images.device)
        m, s = by_device[images.device]
        return images.sub(m).div_(s)

    return apply
