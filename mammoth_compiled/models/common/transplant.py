"""Stored logits that are updated (Boschini et al. 2022, arXiv 2201.00766)."""

import torch


def transplant(
    stored: torch.Tensor, new: torch.Tensor, labels: torch.Tensor, heads: slice, gamma: float
) -> torch.Tensor:
    """Replaces some of the stored logits by new ones that stay below that of the true class.

    New logits whose maximum m exceeds the stored logit z_y of the true class are multiplied by
    gamma z_y / m.

    Args:
        stored: [n, K].
        new: [n, K].
        labels: Class ids y, int64, [n], none of them in `heads`.
        heads: The classes whose logits are replaced.
        gamma: Below 1.

    Returns:
        [n, K].

    Example:
        >>> import torch
        >>> stored, new = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[5.0, 4.0, 1.0]])
        >>> transplant(stored, new, torch.tensor([0]), slice(1, 3), gamma=0.5)
        tensor([[2.0000, 1.0000, 0.2500]])
    """
    result = stored.clone()
    part = new[:, heads]
    if part.shape[1] == 0:
        return result
    true = stored.gather(1, labels[:, None])
    largest = part.amax(1, keepdim=True)
    scale = torch.where(largest > true, gamma * true.clamp(min=0) / largest, 1.0)
    # A maximum of exactly 0 above a negative logit: all new logits become 0.
    result[:, heads] = part * scale.nan_to_num(0.0)
    return result
