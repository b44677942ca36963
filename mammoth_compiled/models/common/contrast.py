"""Supervised contrastive learning: the loss, and strongly augmented views.

Source: Khosla et al. 2020, "Supervised Contrastive Learning", arXiv 2004.11362.
"""

import math

import torch
from torch.nn import functional as F
from torchvision import transforms

from mammoth_compiled.data import apply_transform
from mammoth_compiled.data.transforms.resize import Boxes, crop_resize

CROP_AREA, ASPECT = (0.2, 1.0), math.log(4 / 3)
FLIP_CHANCE, JITTER_CHANCE, GRAY_CHANCE = 0.5, 0.8, 0.2
JITTER = transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)
LUMA = (0.299, 0.587, 0.114)


def contrastive_loss(
    features: torch.Tensor, labels: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Returns the supervised contrastive loss, mean over images, 0-d (eq. 2).

    For image i with the other images p of its class, this is the mean over p of
    -log(exp(z_i . z_p / T) / sum over a != i of exp(z_i . z_a / T)).

    Args:
        features: Normalized features z, [n, F], at least two of each class.
        labels: Class ids, int64, [n].
        temperature: T.
    """
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    similarity = (features @ features.T / temperature).masked_fill(itself, -torch.inf)
    log_probability = F.log_softmax(similarity, 1).masked_fill(itself, 0)
    positive = (labels[:, None] == labels) & ~itself
    return -((log_probability * positive).sum(1) / positive.sum(1)).mean()


def strong_view(images: torch.Tensor) -> torch.Tensor:
    """Returns images in [0, 1], [B, C, H, W], cropped, flipped and, if in color, jittered."""
    height, width = images.shape[-2:]
    # All draws are on the device, so that each replay of a captured step draws again.
    draws = torch.rand(7, len(images), device=images.device)
    area = CROP_AREA[0] + (CROP_AREA[1] - CROP_AREA[0]) * draws[0]
    aspect = (ASPECT * (2 * draws[1] - 1)).exp()
    w = ((area * aspect).sqrt() * width).clamp(1, width)
    h = ((area / aspect).sqrt() * height).clamp(1, height)
    boxes = Boxes(draws[2] * (height - h), draws[3] * (width - w), h, w)
    images = crop_resize(images, boxes, (height, width))
    flip, jitter, gray = draws[4:, :, None, None, None]
    images = torch.where(flip < FLIP_CHANCE, images.flip(-1), images)
    if images.shape[1] == 3:
        images = torch.where(jitter < JITTER_CHANCE, apply_transform(images, JITTER), images)
        luma = sum(weight * images[:, i : i + 1] for i, weight in enumerate(LUMA))
        images = torch.where(gray < GRAY_CHANCE, luma, images)
    return images
