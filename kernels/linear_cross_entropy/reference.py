"""A linear layer, the mean cross-entropy of its logits, and the gradients, in plain torch."""

import torch
from torch.nn import functional as F


def loss_and_grads(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    labels: torch.Tensor,
    ignore_index: int,
    channels: int = 1,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Computes the loss and its gradients.

    Products have the dtype of x, as under autocast; the loss is computed in float32, or float64.

    Args:
        x: Features, [B, F], float.
        weight: [K, F], float.
        bias: [K], or None.
        labels: Classes, int64, [B], each in 0..K-1 or `ignore_index`.
        ignore_index: Rows with this label do not count; without any other, the loss is NaN.
        channels: C: feature p * C + c of x, as in channels-last images, belongs to column
            c * (F // C) + p of the weight, as in flattened images. With 1, orders are the same.

    Returns:
        The loss, 0-d, and the gradients of x, weight and bias in their dtypes; that of a missing
        bias has the dtype of the weight.
    """
    low_weight = to_features(weight.to(x.dtype), channels)
    logits = F.linear(x, low_weight, None if bias is None else bias.to(x.dtype))
    logits = logits.to(torch.promote_types(x.dtype, torch.float32))
    counts = labels != ignore_index
    count = counts.sum()
    classes = torch.where(counts, labels, 0)
    log_probabilities = logits.log_softmax(1)
    each = -log_probabilities.gather(1, classes[:, None])[:, 0]
    loss = torch.where(counts, each, 0).sum() / count
    grad = log_probabilities.exp() - F.one_hot(classes, logits.shape[1])
    grad = torch.where(counts[:, None], grad, 0) / count
    low_grad = grad.to(x.dtype)
    grad_bias = grad.sum(0).to(weight.dtype if bias is None else bias.dtype)
    grad_weight = to_columns(low_grad.T @ x, channels).to(weight.dtype)
    return loss, low_grad @ low_weight, grad_weight, grad_bias


def to_features(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """Returns a weight, [K, F], with its columns in the order of channels-last features."""
    if channels == 1:
        return weight
    return weight.view(len(weight), channels, -1).transpose(1, 2).reshape(weight.shape)


def to_columns(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """Reverses `to_features`."""
    if channels == 1:
        return weight
    return weight.view(len(weight), -1, channels).transpose(1, 2).reshape(weight.shape)
