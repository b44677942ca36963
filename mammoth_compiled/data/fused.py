"""Batches by one GPU kernel that gathers, crops, flips and normalizes: the common transforms."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torchvision import transforms as v1
from torchvision.transforms import v2

from mammoth_compiled.data.transforms.crop import CROPS, FLIPS, crop_padding
from mammoth_compiled.kernels.augment import augment
from mammoth_compiled.kernels.runtime import philox
from mammoth_compiled.kernels.runtime.deferred import advance_counters, settle_counters

_NORMALIZE = (v1.Normalize, v2.Normalize)
_TO_PIL = (v1.ToPILImage, v2.ToPILImage)


@dataclass(frozen=True)
class FusedTransform:
    """The parameters of a transform that the kernel can compute.

    Attributes:
        size: (height, width) of the crops, pixels; None for the complete image.
        padding: Pixels added on the (left, right, top, bottom).
        fill: Value of the added pixels, 0 to 255.
        flip: Probability of a horizontal flip.
        mean: Mean subtracted from each channel in [0, 1]; a single value applies to all channels.
        std: Standard deviation that divides each channel; likewise.
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

    def moments(self, num_channels: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns mean and standard deviation of each channel on a device, float32, [C]."""
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device=device)
            .expand(num_channels)
            .contiguous()
            for values in (self.mean, self.std)
        )
        return mean, std


def fuse_transform(transform: Any, is_pil: bool = True) -> FusedTransform | None:
    """Returns the parameters of a torchvision transform of a PIL image.

    The transform consists of at most one RandomCrop and one RandomHorizontalFlip in either order,
    which gives the same distribution, then ToTensor or its v2 equivalent, and optionally Normalize.

    Args:
        transform: A transform or a Compose.
        is_pil: False for a transform of tensors, which begins with ToPILImage.

    Returns:
        None if the kernel cannot compute the transform.

    Example:
        >>> from torchvision import transforms
        >>> flip = transforms.RandomHorizontalFlip()
        >>> fuse_transform(transforms.Compose([flip, transforms.ToTensor()])).flip
        0.5
        >>> fuse_transform(transforms.ColorJitter()) is None
        True
    """
    parts = list(_flatten(transform))
    if not is_pil:
        first: Any = parts.pop(0) if parts else None
        if type(first) not in _TO_PIL or first.mode not in (None, "RGB", "L"):
            return None
    parameters: dict[str, Any] = {}
    while parts and type(parts[0]) in (*CROPS, *FLIPS):
        part = parts.pop(0)
        new = _crop_parameters(part) if type(part) in CROPS else {"flip": part.p}
        if not new or new.keys() & parameters.keys():
            return None
        parameters |= new
    if [type(part) for part in parts[:1]] == [v1.ToTensor]:
        parts = parts[1:]
    elif [type(part) for part in parts[:2]] == [v2.ToImage, v2.ToDtype] and _scales(parts[1]):
        parts = parts[2:]
    else:
        return None
    if parts and type(parts[0]) in _NORMALIZE:
        part = parts.pop(0)
        parameters |= {name: _floats(getattr(part, name)) for name in ("mean", "std")}
    return None if parts else FusedTransform(**parameters)


class FusedGather:
    """Gathers and transforms batches from an array of images with one kernel.

    Args:
        images: uint8, [N, H, W] or [N, H, W, C], on the device.
        transform: Parameters of the transform.
        with_not_aug: Whether to return the images without the transform, too.
        columns: What belongs to the images, such as labels, [N, ...] each, on the device.

    Attributes:
        random_state: State of the Philox generator, advanced in place by each batch.
    """

    def __init__(
        self,
        images: torch.Tensor,
        transform: FusedTransform,
        with_not_aug: bool,
        columns: Sequence[torch.Tensor] = (),
    ) -> None:
        channels_first = images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2)
        self._images = channels_first
        self._transform = transform
        self._with_not_aug = with_not_aug
        self._columns = [column.contiguous() for column in columns]
        self._mean, self._std = transform.moments(channels_first.shape[1], images.device)
        self.random_state = philox.random_state(0, images.device)

    def begin_epoch(self) -> None:
        """Draws a new seed from torch's generator if the transform is random."""
        if self._transform.is_random:
            # In place, because a captured step reads this memory.
            self.random_state.copy_(
                philox.random_state(int(torch.randint(2**62, ())), torch.device("cpu"))
            )

    def gather(
        self, index: torch.Tensor, window: tuple[torch.Tensor, int] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None, list[torch.Tensor]]:
        """Returns the images with these indices.

        Args:
            index: int64, [B].
            window: (position, B) takes the B indices from a position on, int64, [1], of a longer
                `index`.

        Returns:
            The transformed images, float32, [B, C, H', W'], the images without transform, float32
            in [0, 1], [B, C, H, W], or None, and the rows of each column, [B, ...].
        """
        transform = self._transform
        height, width = self._images.shape[2:]
        settle_counters(self.random_state[1])  # of a batch before in the same step
        batch = augment(
            self._images,
            index,
            self.random_state,
            self._mean,
            self._std,
            size=transform.size or (height, width),
            padding=transform.padding,
            fill=transform.fill,
            flip=transform.flip,
            # As in eager mode: convolutions pass channels-last on, and user code may call view().
            memory_format=torch.contiguous_format,
            plain=self._with_not_aug,
            columns=self._columns,
            window=window,
        )
        advance_counters([self.random_state[1]], [1])
        return batch


def _flatten(transform: Any) -> Iterator[Any]:
    if isinstance(transform, (v1.Compose, v2.Compose)):
        for part in transform.transforms:
            yield from _flatten(part)
    else:
        yield transform


def _crop_parameters(transform: Any) -> dict[str, Any]:
    """Returns the parameters of a RandomCrop, empty if the kernel cannot compute it."""
    fill = transform.fill
    if transform.padding_mode != "constant" or transform.pad_if_needed:
        return {}
    if not (isinstance(fill, int) and 0 <= fill <= 255):
        return {}
    left, top, right, bottom = crop_padding(transform)
    height, width = transform.size
    return {"size": (height, width), "padding": (left, right, top, bottom), "fill": fill}


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(torch.as_tensor(values, dtype=torch.float64).reshape(-1).tolist())


def _scales(transform: Any) -> bool:
    return transform.dtype == torch.float32 and bool(transform.scale)
