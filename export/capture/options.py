"""Optional stages of an exported graph: preprocessing before the backbone, a head after it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import nn

from mammoth_compiled.errors import ExportError
from mammoth_compiled.types import DatasetInfo

# From uint8 to [0, 1], as torchvision's ToTensor does.
SCALE = 1 / 255
LOWEST = torch.finfo(torch.float32).min


class Head(StrEnum):
    """The classes that the columns of `out` stand for.

    ``ALL``: every class of the backbone. ``SEEN``: only the classes seen in training, in the order
    they were learned; `out` is narrower. ``MASKED``: every class; unseen ones hold the lowest
    float32.
    """

    ALL = "all"
    SEEN = "seen"
    MASKED = "masked"


@dataclass(frozen=True)
class Options:
    """What the graph computes besides the backbone, in every format; see `export_bundle`."""

    fold_preprocessing: bool = False
    classes: Head = Head.ALL
    softmax: bool = False
    full: bool = False


class Normalize(nn.Module):
    """Normalizes stored pixels: (pixel * scale - mean) / std.

    Args:
        mean: Mean per channel of images in [0, 1].
        std: Standard deviation per channel of images in [0, 1].
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        shape = (-1, 1, 1)
        # Not persistent: only what training changes counts as a weight.
        self.register_buffer("mean", torch.tensor(mean).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(shape), persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Maps uint8 [B, H, W, C] to float32 [B, C, H, W]."""
        images = pixels.permute(0, 3, 1, 2).to(torch.float32) * SCALE
        return (images - self.mean) / self.std


class SelectClasses(nn.Module):
    """Keeps the columns of the given classes, in the given order.

    Args:
        classes: Class ids.
    """

    columns: torch.Tensor

    def __init__(self, classes: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("columns", torch.tensor(classes))

    def forward(self, out: torch.Tensor) -> torch.Tensor:
        """Maps [B, K] to [B, len(classes)]."""
        return out.index_select(1, self.columns)


class MaskUnseen(nn.Module):
    """Sets the columns of unseen classes to the lowest float32.

    Args:
        classes: Ids of the classes seen.
        num_classes: K.
    """

    seen: torch.Tensor

    def __init__(self, classes: Sequence[int], num_classes: int) -> None:
        super().__init__()
        # Floats, because bool tensors cannot be replaced in compiled code.
        seen = torch.zeros(num_classes)
        seen[list(classes)] = 1
        self.register_buffer("seen", seen)

    def forward(self, out: torch.Tensor) -> torch.Tensor:
        """Maps [B, K] to the same shape."""
        return torch.where(self.seen > 0, out, LOWEST)


def make_preprocessing(options: Options, info: DatasetInfo | None) -> nn.Module:
    """Returns the stage in front of the backbone.

    Raises:
        ExportError: If preprocessing is to be folded in and the normalization is unknown.
    """
    if not options.fold_preprocessing:
        return nn.Identity()
    if info is None or not info.mean or not info.std:
        raise ExportError(
            "fold_preprocessing needs the mean and standard deviation of the training data: give "
            "info=DatasetInfo(..., mean=..., std=...)"
        )
    return Normalize(info.mean, info.std)


def make_head(options: Options, info: DatasetInfo | None, num_classes: int) -> nn.Module:
    """Returns the stage behind the backbone's logits.

    Raises:
        ExportError: If classes are to be selected or masked and the classes seen are unknown.
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
        selects = options.classes == Head.SEEN
        stages.append(SelectClasses(seen) if selects else MaskUnseen(seen, num_classes))
    if options.softmax:
        stages.append(nn.Softmax(dim=1))
    return nn.Sequential(*stages)
