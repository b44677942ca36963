"""Softmax attention and its gradients in plain torch."""

import math

import torch


def forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes softmax(q k^T * scale) v.

    float16 and bfloat16 are computed in float32. A NaN in a query makes the output of that query
    NaN; so do scores that are all -inf or include +inf.

    Args:
        q: [B, H, LQ, D], float.
        k: [B, H, LK, D].
        v: [B, H, LK, D].
        scale: Factor of the scores.

    Returns:
        The output, [B, H, LQ, D], and log2(sum over keys of exp(score)) of every query, [B, H, LQ],
        in float32 (float64 for float64).

    Source:
        Vaswani et al. 2017, "Attention Is All You Need", arXiv 1706.03762, equation 1.
    """
    score = _base2_scores(q, k, scale)
    highest = score.amax(-1, keepdim=True)
    # If all scores are -inf, -inf - -inf would be NaN; the weights must sum to 0.
    shift = torch.where(highest == float("-inf"), 0.0, highest)
    weight = torch.exp2(score - shift)
    norm = weight.sum(-1, keepdim=True)
    o = (weight / norm) @ v.to(weight.dtype)
    return o.to(q.dtype), (highest + torch.log2(norm)).squeeze(-1)


def backward(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    o: torch.Tensor,
    lse: torch.Tensor,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Computes the gradients of q, k and v.

    Args:
        grad: Gradient of the output, [B, H, LQ, D].
        q: [B, H, LQ, D].
        k: [B, H, LK, D].
        v: [B, H, LK, D].
        o: The output of `forward`.
        lse: The base-2 log-sum-exp of `forward`.
        scale: Factor of the scores.

    Returns:
        In the shapes and dtype of q, k and v.

    Source:
        Dao et al. 2022, "FlashAttention", arXiv 2205.14135, appendix B.4.
    """
    weight = torch.exp2(_base2_scores(q, k, scale) - lse.unsqueeze(-1))
    grad_, q_, k_, v_, o_ = (x.to(weight.dtype) for x in (grad, q, k, v, o))
    delta = (o_ * grad_).sum(-1, keepdim=True)
    grad_score = weight * (grad_ @ v_.mT - delta) * scale
    grads = (grad_score @ k_, grad_score.mT @ q_, weight.mT @ grad_)
    return grads[0].to(q.dtype), grads[1].to(q.dtype), grads[2].to(q.dtype)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Returns the dtype in which scores and log-sum-exp are computed."""
    return torch.promote_types(dtype, torch.float32)


def _base2_scores(q: torch.Tensor, k: torch.Tensor, scale: float) -> torch.Tensor:
    """Returns the scores times log2(e), so that exp2 gives the weights before normalization."""
    dtype = accumulation_dtype(q.dtype)
    return (q.to(dtype) @ k.to(dtype).mT) * (scale * math.log2(math.e))
