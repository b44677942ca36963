"""Several linear layers of the same input, such as queries, keys and values, as one."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from mammoth_compiled.kernels.runtime.implementations import Implementation


def joint_linear(
    x: torch.Tensor, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor | None]
) -> tuple[torch.Tensor, ...]:
    """Computes several linear layers of the same input as one matrix multiplication.

    Gradients flow to each weight and bias. The results are views of one tensor, which the attention
    kernels read in place.

    It is one launch instead of n, and x is read once; likewise one multiplication for the gradient
    of x and one for those of the weights, instead of n each and n - 1 additions. In return all
    weights and biases are concatenated in every step, and the gradients of the results in the
    backward. That pays off while launches bound the time, up to a few thousand tokens per batch.

    Args:
        x: [..., C].
        weights: Each [N_i, C].
        biases: Each [N_i], or None where a layer has none.

    Returns:
        Each [..., N_i], x @ weight.T + bias.

    Raises:
        ValueError: If the numbers of weights and biases differ, or a weight does not fit x.
    """
    if not weights or len(weights) != len(biases):
        raise ValueError(
            f"joint_linear() got {len(weights)} weights and {len(biases)} biases; give at least "
            "one weight, and for each a bias or None"
        )
    shapes = [tuple(weight.shape) for weight in weights]
    if any(len(shape) != 2 or shape[1] != x.shape[-1] for shape in shapes):
        raise ValueError(
            f"joint_linear() got weights of shapes {shapes} for an input of {x.shape[-1]} "
            f"features; each must be [N, {x.shape[-1]}]"
        )
    bias = None
    if any(b is not None for b in biases):
        pairs = zip(weights, biases, strict=True)
        bias = torch.cat([w.new_zeros(w.shape[0]) if b is None else b for w, b in pairs])
    joint = F.linear(x, torch.cat(list(weights)), bias)
    return joint.split([shape[0] for shape in shapes], dim=-1)


def _separate(
    x: torch.Tensor, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor | None]
) -> tuple[torch.Tensor, ...]:
    return tuple(F.linear(x, w, b) for w, b in zip(weights, biases, strict=True))


# With fewer tokens nothing is gained, with more the multiplications themselves take the time.
MIN_TOKENS, MAX_TOKENS = 64, 256


def _joint_why_slow(x: torch.Tensor, *_: Any) -> str:
    pays = MIN_TOKENS <= x.shape[-2] <= MAX_TOKENS
    return "" if pays else f"it pays for {MIN_TOKENS} to {MAX_TOKENS} tokens"


# Each takes (x, weights, biases), x as [B, L, C].
IMPLEMENTATIONS = (
    Implementation("joint", "one product", joint_linear, "cuda", why_slow=_joint_why_slow),
    Implementation("torch", "torch", _separate),
)
