"""Launchers of the Triton kernels of softmax attention: one kernel forward, two backward.

The forward keeps a running maximum and sum per query (online softmax) and saves the log-sum-exp.
The backward recomputes the weights from it, once for the gradients of keys and values and once for
that of queries: two kinds of programs in one launch, each of which owns the rows that it writes, so
there are no atomics. Float32 is multiplied in TF32.

Source: Dao 2023, "FlashAttention-2", arXiv 2307.08691; Milakov and Gimelshein 2018, "Online
normalizer calculation for softmax", arXiv 1805.02867.
"""

import math

import torch
import triton
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.nn import functional as F

from mammoth_compiled.kernels.attention.triton_kernels import (
    UNIT,
    backward_kernel,
    delta_kernel,
    forward_kernel,
)
from mammoth_compiled.kernels.runtime.launch import ceil_div, launch
from mammoth_compiled.kernels.runtime.tiles import select_tile


def forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes softmax(q k^T * scale) v; see `reference.forward`.

    Tensors whose rows do not allow 16-byte loads are copied first: strides or head sizes that are
    not multiples of 8, or a last dimension that is not contiguous.

    Args:
        q: [B, H, LQ, D], float32 (multiplied in TF32), bfloat16 or float16.
        k: [B, H, LK, D].
        v: [B, H, LK, D].
        scale: Factor of the scores.

    Returns:
        The output, [B, H, LQ, D] laid out as [B, LQ, H, D], and the base-2 log-sum-exp of the
        scores of every query, [B, H, LQ], float32.
    """
    batch, heads, queries, size = q.shape
    keys = k.shape[2]
    o = torch.empty((batch, queries, heads, size), dtype=q.dtype, device=q.device)
    lse = torch.empty((batch, heads, queries), dtype=torch.float32, device=q.device)
    q, k, v = (_aligned(x) for x in (q, k, v))
    sizes = _sizes(batch * heads, queries, keys, size)
    config = select_tile("attention.forward", q.dtype, sizes, q.device)
    launch(
        forward_kernel,
        (batch * heads * ceil_div(queries, config["BLOCK_Q"]),),
        *(q, k, v, o, lse, scale * math.log2(math.e), heads, queries, keys),
        *(*_strides(q), *_strides(k), *_strides(v)),
        config=config,
        D=size,
        BLOCK_D=_block_size(size),
        MASK_KEYS=keys % config["BLOCK_K"] != 0,
        PRECISION="tf32",
    )
    return o.transpose(1, 2), lse


def backward(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    o: torch.Tensor,
    lse: torch.Tensor,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Computes the gradients of q, k and v; see `reference.backward`.

    Args:
        grad: Gradient of the output, [B, H, LQ, D].
        q: [B, H, LQ, D], float32 (multiplied in TF32), bfloat16 or float16.
        k: [B, H, LK, D].
        v: [B, H, LK, D].
        o: The output of `forward`, in its layout.
        lse: The log-sum-exp of `forward`.
        scale: Factor of the scores.

    Returns:
        [B, H, LQ, D] and twice [B, H, LK, D], laid out as [B, L, H, D].
    """
    batch, heads, queries, size = q.shape
    keys = k.shape[2]
    grad_q, grad_k, grad_v = (
        torch.empty((batch, length, heads, size), dtype=q.dtype, device=q.device)
        for length in (queries, keys, keys)
    )
    delta = torch.empty_like(lse)
    grad, q, k, v = (_aligned(x) for x in (grad, q, k, v))
    sizes = _sizes(batch * heads, queries, keys, size)
    config = select_tile("attention.delta", q.dtype, sizes, q.device)
    launch(
        delta_kernel,
        (batch * heads * ceil_div(queries, config["BLOCK_Q"]),),
        *(o, grad, delta, heads, queries, *_strides(grad)),
        config=config,
        D=size,
        BLOCK_D=_block_size(size),
    )
    config = select_tile("attention.backward", q.dtype, sizes, q.device)
    own, step = config["BLOCK_OWN"], config["BLOCK_STEP"]
    launch(
        backward_kernel,
        (batch * heads * (ceil_div(keys, own) + ceil_div(queries, own)),),
        *(q, k, v, grad, lse, delta, grad_q, grad_k, grad_v),
        *(scale, scale * math.log2(math.e), heads, queries, keys),
        *(*_strides(q), *_strides(k), *_strides(v), *_strides(grad)),
        config=config,
        D=size,
        BLOCK_D=_block_size(size),
        MASK_QUERIES=queries % step != 0,
        MASK_KEYS=keys % step != 0,
        PRECISION="tf32",
    )
    return grad_q.transpose(1, 2), grad_k.transpose(1, 2), grad_v.transpose(1, 2)


def _aligned(x: torch.Tensor) -> torch.Tensor:
    """Returns the same elements in rows that begin at multiples of 16 bytes, zero-padded."""
    padding = -x.shape[-1] % UNIT.value
    if padding:
        x = F.pad(x, (0, padding))
    # With a dynamic batch a stride is a symbol; it must be a multiple for every batch.
    is_aligned = x.stride(-1) == 1 and all(
        statically_known_true(s % UNIT.value == 0) for s in x.stride()[:-1]
    )
    return x if is_aligned else x.contiguous()


def _strides(x: torch.Tensor) -> list[int]:
    """Returns the strides of batch, head and row in units of 8 elements."""
    return [s // UNIT.value if n > 1 else 0 for n, s in zip(x.shape[:3], x.stride(), strict=False)]


def _block_size(size: int) -> int:
    # tl.dot needs at least 16 columns.
    return max(16, triton.next_power_of_2(size))


def _sizes(heads: int, queries: int, keys: int, size: int) -> dict[str, int]:
    return {"heads": heads, "queries": queries, "keys": keys, "head_size": size}
