"""What may be put before and behind a backbone in an exported graph, on request."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import nn

from mammoth_compiled.errors import ExportError
from mammoth_compiled.types import DatasetInfo

# From uint8 to [0, 1], as torchvision's ToTensor.
SCALE = 1 / 255
LOWEST = torch.finfo(torch.float32).min


class Head(StrEnum):
    """Which classes the columns of `out` stand for.

    ``ALL``: every class of the backbone. ``SEEN``: only the classes trained on, in the order they
    came; `out` is narrower. ``MASKED``: every class, those not seen hold the lowest float32.
    """

    ALL = "all"
    SEEN = "seen"
    MASKED = "masked"


@dataclass(frozen=True)
class Options:
    """What is added to the graph of every format; see `export_bundle`."""

    fold_preprocessing: bool = False
    classes: Head = Head.ALL
    softmax: bool = False
    full: bool = False


class Normalise(nn.Module):
    """Turns stored pixels into what the backbone takes: (pixel * scale - mean) / std.

    Args:
        mean: One number per channel, subtracted from pixels in [0, 1].
        std: One number per channel.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        shape = (-1, 1, 1)
        # Not persistent: weights are what training changes.
        self.register_buffer("mean", torch.tensor(mean).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(shape), persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Maps uint8 [B, H, W, C] to float32 [B, C, H, W]."""
        images = pixels.permute(0, 3, 1, 2).to(torch.float32) * SCALE
        return (images - self.mean) / self.std


class Trim(nn.Module):
    """Keeps the columns of some classes, in their order.

    Args:
        classes: Their ids.
    """

    columns: torch.Tensor

    def __init__(self, classes: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("columns", torch.tensor(classes))

    def forward(self, out: torch.Tensor) -> torch.Tensor:
        """Maps [B, K] to [B, len(classes)]."""
        return out.index_select(1, self.columns)


class Mask(nn.Module):
    """Gives the columns of classes that were not seen the lowest float32.

    Args:
        classes: Ids of the classes seen.
        num_classes: K.
    """

    seen: torch.Tensor

    def __init__(self, classes: Sequence[int], num_classes: int) -> None:
        super().__init__()
        # Numbers, as formats cannot replace truth values in what is compiled.
        seen = torch.zeros(num_classes)
        seen[list(classes)] = 1
        self.register_buffer("seen", seen)

    def forward(self, out: torch.Tensor) -> torch.Tensor:
        """Maps [B, K] to the same shape."""
        return torch.where(self.seen > 0, out, LOWEST)


def before(options: Options, info: DatasetInfo | None) -> nn.Module:
    """Returns what stands before the backbone.

    Raises:
        ExportError: If the normalisation is to be folded in and is not known.
    """
    if not options.fold_preprocessing:
        return nn.Identity()
    if info is None or not info.mean or not info.std:
        raise ExportError(
            "fold_preprocessing needs the mean and standard deviation of the training data: give "
            "info=DatasetInfo(..., mean=..., std=...)"
        )
    return Normalise(info.mean, info.std)


def behind(options: Options, info: DatasetInfo | None, num_classes: int) -> nn.Module:
    """Returns what stands behind the head.

    Raises:
        ExportError: If the head is to be trimmed or masked and the classes seen are not known.
    """
    stages: list[nn.Module] = []
    if options.classes != Head.ALL:
        seen = info.classes_seen if info is not None else ()
        if not seen:
            raise ExportError(
                f"classes={str(options.classes)!r} needs to know which classes were seen: export a "
                "trained model or a checkpoint, or give info=DatasetInfo(..., tasks=..., "
                "tasks_seen=...)"
            )
        trimmed = options.classes == Head.SEEN
        stages.append(Trim(seen) if trimmed else Mask(seen, num_classes))
    if options.softmax:
        stages.append(nn.Softmax(dim=1))
    return nn.Sequential(*stages)
