"""The functions of Mammoth's `utils.augmentations` that its models use."""

import math
from typing import Any

import numpy as np
import torch
from torchvision import transforms

from mammoth_compiled.data.transforms import apply_transform
from mammoth_compiled.models.common.contrast import strong_view

__all__ = ["RepeatedTransform", "apply_transform", "cutmix_data", "strong_aug"]


def cutmix_data(
    x: torch.Tensor,
    y: torch.Tensor,
    alpha: float = 1.0,
    cutmix_prob: float = 0.5,
    force: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    """Pastes a rectangle of another image of the batch into each image.

    Source: Yun et al. 2019, "CutMix", arXiv 1905.04899, section 3.1.

    Args:
        x: Images, [B, C, H, W]; they are not changed.
        y: Class ids, [B].
        alpha: Parameter of the Beta distribution of the kept area.
        cutmix_prob: Probability that the batch is mixed.
        force: True mixes in any case.

    Returns:
        The images, the classes of their outer parts, [B], those of their rectangles, [B], and the
        share of the outer part.
    """
    if not force and np.random.rand() > cutmix_prob:
        return x, y, y, 1.0
    other = torch.randperm(len(x), device=x.device)
    height, width = x.shape[-2:]
    side = math.sqrt(1 - np.random.beta(alpha, alpha))
    half_height, half_width = int(height * side) // 2, int(width * side) // 2
    row, column = np.random.randint(height), np.random.randint(width)
    top, bottom = max(row - half_height, 0), min(row + half_height, height)
    left, right = max(column - half_width, 0), min(column + half_width, width)
    mixed = x.clone()
    mixed[..., top:bottom, left:right] = x[other][..., top:bottom, left:right]
    return mixed, y, y[other], 1 - (bottom - top) * (right - left) / (height * width)


class RepeatedTransform:
    """Applies each of several transforms to a batch and stacks the results.

    Args:
        transforms_list: The transforms.
    """

    def __init__(self, transforms_list: list[Any]) -> None:
        self.transforms_list = transforms_list

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the results, [T, *images.shape]."""
        return torch.stack([apply_transform(images, t) for t in self.transforms_list])


class strong_aug:  # noqa: N801, Mammoth's name
    """Crops, flips and recolors images as `strong_view` does, each in its own way; X-DER's views.

    Args:
        size: Not used; the views have the size of the images.
        mean: Mean of each channel, for the normalization that follows.
        std: Standard deviation of each channel.
    """

    def __init__(self, size: Any, mean: Any, std: Any) -> None:
        self.transform = transforms.Normalize(mean, std)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Returns normalized views of images in [0, 1], [B, C, H, W]."""
        return apply_transform(strong_view(x), self.transform)
