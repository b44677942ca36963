"""Batches by one kernel: gather, crop, mirror, normalise, for the usual transform on a GPU."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torchvision import transforms as v1
from torchvision.transforms import v2

from mammoth_compiled.data.geometry import four_sides
from mammoth_compiled.data.transforms import CROPS, FLIPS
from mammoth_compiled.kernels import philox
from mammoth_compiled.kernels.augment import augment


@dataclass(frozen=True)
class Recipe:
    """The numbers of a transform that the kernel can do.

    Attributes:
        size: (height, width) of the crops; None takes the whole image.
        padding: Pixels added at (left, right, top, bottom).
        fill: Value of the added pixels, 0 to 255.
        flip: Probability to mirror.
        mean: Of each channel in [0, 1]; one number serves all.
        std: Likewise.
    """

    size: tuple[int, int] | None = None
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    fill: int = 0
    flip: float = 0.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    @property
    def is_random(self) -> bool:
        """Whether two batches of the same images can differ."""
        return self.size is not None or self.flip > 0


def recipe(transform: Any) -> Recipe | None:
    """Returns the numbers of a torchvision transform of a Pillow image, None for other chains.

    A chain has RandomCrop and RandomHorizontalFlip at most once each and in either order, which
    gives the same distribution, then ToTensor (or its v2 spelling), then maybe Normalize.
    """
    parts = list(_flat(transform))
    numbers: dict[str, Any] = {}
    while parts and type(parts[0]) in (*CROPS, *FLIPS):
        part = parts.pop(0)
        found = _crop(part) if type(part) in CROPS else {"flip": part.p}
        if not found or found.keys() & numbers.keys():
            return None
        numbers |= found
    if [type(part) for part in parts[:1]] == [v1.ToTensor]:
        parts = parts[1:]
    elif [type(part) for part in parts[:2]] == [v2.ToImage, v2.ToDtype] and _scales(parts[1]):
        parts = parts[2:]
    else:
        return None
    if parts and type(parts[0]) in _NORMALISE:
        part = parts.pop(0)
        numbers |= {name: _numbers(getattr(part, name)) for name in ("mean", "std")}
    return None if parts else Recipe(**numbers)


class FusedBatches:
    """Makes the batches of one array of images.

    Args:
        images: uint8, [N, H, W] or [N, H, W, C], on the device.
        recipe: What the transform does.
        plain: Whether the images are wanted without it, too.

    Attributes:
        random_state: State of the Philox generator, advanced in place by each batch.
    """

    def __init__(self, images: torch.Tensor, recipe: Recipe, plain: bool) -> None:
        channels_last = images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2)
        self._images = channels_last
        self._recipe = recipe
        self._plain = plain
        channels = channels_last.shape[1]
        self._mean, self._std = (
            torch.tensor(values, device=images.device).expand(channels).contiguous()
            for values in (recipe.mean, recipe.std)
        )
        self.random_state = philox.random_state(0, images.device)

    def begin_epoch(self) -> None:
        """Draws a new seed from torch's generator if there is anything to draw."""
        if self._recipe.is_random:
            # Into the same tensor, where a captured step looks for it.
            self.random_state.copy_(
                philox.random_state(int(torch.randint(2**62, ())), torch.device("cpu"))
            )

    def batch(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns transformed images, [B, C, height, width], and the plain ones in [0, 1] or None.

        Args:
            index: Item numbers, int64, [B].
        """
        numbers = self._recipe
        height, width = self._images.shape[2:]
        result = augment(
            self._images,
            index,
            self.random_state,
            self._mean,
            self._std,
            size=numbers.size or (height, width),
            padding=numbers.padding,
            fill=numbers.fill,
            flip=numbers.flip,
            # As eager code has it: a convolution hands channels-last on, and `view` fails on that.
            memory_format=torch.contiguous_format,
            plain=self._plain,
        )
        philox.advance(self.random_state)
        return result


_NORMALISE = (v1.Normalize, v2.Normalize)


def _flat(transform: Any) -> Iterator[Any]:
    if isinstance(transform, (v1.Compose, v2.Compose)):
        for part in transform.transforms:
            yield from _flat(part)
    else:
        yield transform


def _crop(transform: Any) -> dict[str, Any]:
    """Returns the numbers of a RandomCrop that the kernel can do, else none."""
    fill = transform.fill
    if transform.padding_mode != "constant" or transform.pad_if_needed:
        return {}
    if not (isinstance(fill, int) and 0 <= fill <= 255):
        return {}
    left, top, right, bottom = four_sides(transform)
    height, width = transform.size
    return {"size": (height, width), "padding": (left, right, top, bottom), "fill": fill}


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(torch.as_tensor(values, dtype=torch.float64).reshape(-1).tolist())


def _scales(transform: Any) -> bool:
    return transform.dtype == torch.float32 and bool(transform.scale)
