"""Crop and resize of a batch, each image with its own box: the reference.

The bilinear filter with antialiasing of Pillow: a triangle as wide as the step between output
pixels. Its two passes are two batched matrix products, whose matrices hold the filter.
"""

import torch


def crop_resize(
    images: torch.Tensor,
    top: torch.Tensor,
    left: torch.Tensor,
    height: torch.Tensor,
    width: torch.Tensor,
    size: tuple[int, int],
) -> torch.Tensor:
    """Cuts a box out of every image and resizes it.

    Args:
        images: [B, C, H, W], uint8 or float.
        top: First row of each box, [B].
        left: First column of each box, [B].
        height: Rows of each box, [B].
        width: Columns of each box, [B].
        size: (height, width) of the result, pixels.

    Returns:
        [B, C, *size], same dtype; bytes are rounded after each pass, as in Pillow, and are within
        one level of its result.
    """
    across = filter_matrix(left, width, images.shape[3], size[1])
    down = filter_matrix(top, height, images.shape[2], size[0])
    if images.is_floating_point():
        return down[:, None] @ (images @ across.mT[:, None])
    # Half a level is rounded up, as in Pillow.
    lines = (images.float() @ across.mT[:, None]).add_(0.5).floor_()
    return (down[:, None] @ lines).add_(0.5).floor_().clamp_(0, 255).to(images.dtype)


def filter_matrix(
    start: torch.Tensor, length: torch.Tensor, pixels: int, size: int
) -> torch.Tensor:
    """Returns the weights with which pixels of a line make the pixels of its resized part.

    Args:
        start: First pixel of the part, [B].
        length: Pixels of the part, [B].
        pixels: N, pixels of the line.
        size: M, pixels of the result.

    Returns:
        Float weights, [B, M, N]; each row sums to 1.
    """
    device = start.device
    begin, span = start.float()[:, None, None], length.float()[:, None, None]
    step = span / size
    center = begin + (torch.arange(size, device=device)[:, None] + 0.5) * step
    middle = torch.arange(pixels, device=device) + 0.5
    weights = (1 - (middle - center).abs() / step.clamp(min=1)).clamp_(min=0)
    inside = (middle > begin) & (middle < begin + span)
    weights = torch.where(inside, weights, 0.0)
    return weights / weights.sum(2, keepdim=True)
