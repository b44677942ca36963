"""Random crop, flip and normalization of a batch in plain torch."""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from mammoth_compiled.kernels.runtime import philox

# Keeps these draws apart from those of other operations in the same step.
STREAM = 1 << 16


def augmented(
    images: torch.Tensor,
    top: torch.Tensor,
    left: torch.Tensor,
    flipped: torch.Tensor,
    mean: torch.Tensor,
    std: torch.Tensor,
    size: Sequence[int],
    padding: Sequence[int],
    fill: int,
) -> torch.Tensor:
    """Returns a batch for given draws, equal to torchvision's transforms image by image.

    Args:
        images: uint8, [B, C, H, W].
        top: First row of each crop in the padded image, int64, [B].
        left: First column of each crop, int64, [B].
        flipped: Whether each crop is flipped left to right, bool, [B].
        mean: Mean of each channel in [0, 1], float32, [C].
        std: Standard deviation of each channel, float32, [C].
        size: (height, width) of the crops.
        padding: Pixels added at (left, right, top, bottom).
        fill: Value of the added pixels, 0 to 255.

    Returns:
        The batch, float32, [B, C, height, width].
    """
    height, width = size
    before, after, above, below = padding
    crops = crop_flip(
        images, top, left, flipped, (height, width), (before, after, above, below), fill
    )
    return (scaled(crops) - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)


def to_bytes(images: torch.Tensor) -> torch.Tensor:
    """Returns float images in [0, 1] as uint8, truncated like ToPILImage; uint8 unchanged."""
    return images.mul(255).byte() if images.is_floating_point() else images


def scaled(images: torch.Tensor) -> torch.Tensor:
    """Returns uint8 images as float32 in [0, 1]."""
    return images.float().div(255)


def crop_flip(
    images: torch.Tensor,
    top: torch.Tensor,
    left: torch.Tensor,
    flipped: torch.Tensor,
    size: tuple[int, int],
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    fill: float = 0,
) -> torch.Tensor:
    """Pads, crops and flips every image with its own parameters.

    Args:
        images: [B, C, H, W], any dtype.
        top: First row of each crop in the padded image, int64, [B].
        left: First column of each crop in the padded image, int64, [B].
        flipped: Whether each crop is flipped left to right, bool, [B].
        size: (height, width) of the crops, pixels.
        padding: Pixels added at (left, right, top, bottom).
        fill: Value of the added pixels.

    Returns:
        The crops, [B, C, height, width], same dtype.
    """
    height, width = size
    if any(padding):
        images = F.pad(images, padding, value=fill)
    columns = torch.arange(width, device=images.device).expand(len(images), width)
    columns = torch.where(flipped[:, None], width - 1 - columns, columns) + left[:, None]
    rows = torch.arange(height, device=images.device) + top[:, None]
    batch, channels, _, padded_width = images.shape
    # One gather over flat pixels is several times faster on a CPU than three index tensors.
    pixels = (rows[:, :, None] * padded_width + columns[:, None, :]).view(batch, 1, height * width)
    flat = images.flatten(2).gather(2, pixels.expand(batch, channels, height * width))
    return flat.view(batch, channels, height, width)


def crop_draws(
    state: torch.Tensor, batch: int, rows: int, columns: int, flip: float, stream: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draws the crop and the flip of each image, the same as the Triton kernel.

    The distribution is that of torchvision's RandomCrop followed by RandomHorizontalFlip, within
    the bounds that `philox.below` and `philox.happens` state.

    Args:
        state: State of the generator, `philox.random_state`; it is not advanced.
        batch: B, number of images.
        rows: Number of possible first rows.
        columns: Number of possible first columns.
        flip: Probability of a flip.
        stream: Distinguishes the batches of one step, 0 to 65535.

    Returns:
        top and left, int64, [B], and flipped, bool, [B].
    """
    vertical, horizontal, flip_word, _ = philox.draw(state, batch, STREAM + stream)
    return (
        philox.below(vertical, rows),
        philox.below(horizontal, columns),
        philox.happens(flip_word, flip),
    )


def num_positions(
    images: torch.Tensor, size: Sequence[int], padding: Sequence[int]
) -> tuple[int, int]:
    """Returns the number of possible first rows and first columns of a crop."""
    before, after, above, below = padding
    return (
        images.shape[2] + above + below - size[0] + 1,
        images.shape[3] + before + after - size[1] + 1,
    )
