"""A keyed permutation of 0..n-1 in plain torch; it specifies the kernel to the bit."""

import math

import torch

from mammoth_compiled.kernels.runtime import philox

# Keeps these draws apart from those of other operations in the same step.
STREAM = 3 << 16
# Each round uses one word of Philox, which gives four at a time. With 8 rounds, permutations of few
# rows are visibly biased in 100,000 draws; with 16, no n from 2 to 500 is.
ROUNDS = 16
_LOW = 0xFFFFFFFF


def permuted(
    items: torch.Tensor, num_rows: int, state: torch.Tensor, stream: int = 0
) -> torch.Tensor:
    """Maps items to rows by the permutation of 0..n-1 that the state determines.

    A Feistel network permutes 0..a*b-1 with a = ceil(sqrt(n)) and b = ceil(n / a). An image beyond
    n - 1 is permuted again until it is not; as a*b < n + a, that is rare.

    Args:
        items: int64 in 0..n-1, any shape.
        num_rows: n, 1 to 2^24 - 1.
        state: State of the generator, `philox.random_state`; it is not advanced.
        stream: Distinguishes the draws of one step, 0 to 65535.

    Returns:
        int64 in 0..n-1, distinct for distinct items.
    """
    # Four calls with four words each.
    keys = torch.stack(philox.draw(state, ROUNDS // 4, STREAM + stream), 1).flatten()
    a = math.isqrt(num_rows - 1) + 1
    b = -(-num_rows // a)
    rows = _network(items, a, b, keys)
    while bool((rows >= num_rows).any()):
        rows = torch.where(rows >= num_rows, _network(rows, a, b, keys), rows)
    return rows


def _network(x: torch.Tensor, a: int, b: int, keys: torch.Tensor) -> torch.Tensor:
    """Permutes 0..a*b-1: two coordinates take turns in being shifted by a function of the other."""
    left, right = x // b, x % b
    for first, second in keys.view(-1, 2):
        left = (left + philox.below(_mixed(right, first), a)) % a
        right = (right + philox.below(_mixed(left, second), b)) % b
    return left * b + right


def _mixed(x: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Hashes 32-bit words with a key: the finalizer of MurmurHash3 after a multiplication."""
    x = (x ^ key) * 0xCC9E2D51 & _LOW
    x = (x ^ x >> 16) * 0x85EBCA6B & _LOW
    x = (x ^ x >> 13) * 0xC2B2AE35 & _LOW
    return x ^ x >> 16


def drawn(
    size: int,
    num_rows: int,
    mask: torch.Tensor | None,
    state: torch.Tensor,
    stream: int = 0,
) -> torch.Tensor:
    """Draws rows; see `op.draw_rows`, which also advances the state.

    Returns:
        int64, [M].
    """
    rows = None if mask is None else mask.nonzero()[:, 0]
    count = num_rows if rows is None else len(rows)
    items = torch.arange(size, device=state.device) % count
    numbers = permuted(items, count, state, stream)
    return numbers if rows is None else rows[numbers]
