"""CutMix (Yun et al. 2019, arXiv 1905.04899)."""

import torch


def cutmix(
    inputs: torch.Tensor, labels: torch.Tensor, probability: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pastes a random rectangle of other images of the batch into each image.

    Source: Yun et al. 2019, arXiv 1905.04899, eq. 1 and 2. All images share the rectangle.

    Args:
        inputs: [B, C, H, W].
        labels: Class ids, [B].
        probability: Probability with which anything is pasted.

    Returns:
        The mixed images, [B, C, H, W], the labels of the pasted parts, [B], and the share of the
        pixels that keep their image, 0-d.
    """
    height, width = inputs.shape[2:]
    ratio, y, x, draw = torch.rand(4, device=inputs.device).unbind()
    half = (1 - ratio).sqrt() / 2
    rows = torch.arange(height, device=inputs.device) / height
    columns = torch.arange(width, device=inputs.device) / width
    pasted = (
        ((rows - y).abs() < half)[:, None] & ((columns - x).abs() < half) & (draw < probability)
    )
    order = torch.rand(len(inputs), device=inputs.device).argsort()
    mixed = torch.where(pasted, inputs[order], inputs)
    return mixed, labels[order], 1 - pasted.float().mean()
