"""Similarity of the gradients of images (Aljundi et al. 2019, arXiv 1903.08671)."""

import torch
from torch.nn import functional as F


def gradient_similarity(
    logits: torch.Tensor, features: torch.Tensor, labels: torch.Tensor, num_first: int
) -> torch.Tensor:
    """Returns cosines between the gradients of a linear classifier's parameters, [n, m].

    The gradient of the cross entropy of one image is the outer product of softmax(z) - onehot(y)
    and (f, 1). The cosine of two outer products is the product of the cosines of their factors.

    Args:
        logits: z, [n + m, K].
        features: f, the inputs of the classifier, [n + m, F].
        labels: Class ids y, int64, [n + m].
        num_first: n; the first n images are compared with the other m.
    """
    # Not one_hot, which reads labels on the host.
    error = logits.softmax(1).scatter_add(1, labels[:, None], -torch.ones_like(logits[:, :1]))
    inputs = F.pad(features, (0, 1), value=1.0)
    result = torch.ones((), device=logits.device)
    for factor in (F.normalize(error), F.normalize(inputs)):
        result = result * (factor[:num_first] @ factor[num_first:].T)
    return result
