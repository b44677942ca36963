"""Softmax attention in Triton: one kernel forward, two backward, nothing of size L x L in memory.

The forward keeps a running maximum and sum of every query (online softmax) and saves their
logarithm. The backward computes the weights again from it, once to gather the gradients of keys and
values and once for queries: programs of two kinds in one launch, each of which owns the rows that
it writes. Sources: Dao 2023, "FlashAttention-2", arXiv 2307.08691; Milakov and Gimelshein 2018,
"Online normalizer calculation for softmax", arXiv 1805.02867.

Float32 products are taken in tf32.
"""

import math
from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.nn import functional as F

from mammoth_compiled.kernels.configs import choose
from mammoth_compiled.kernels.launch import ceil_div, launch
from mammoth_compiled.kernels.problem import Problem

# Rows begin at multiples of so many elements. Strides are passed divided by it, so that the
# compiler knows and loads 16 bytes at once: it looks at no divisor of an argument other than 16.
_UNIT = tl.constexpr(8)


@triton.jit
def _head(x, head, H, stride_b, stride_h):
    """Points to the first row of a head of a tensor with any strides."""
    # Divided in 32 bits: 64 take a subroutine.
    batch = (head // H).to(tl.int64)
    return x + (batch * stride_b + (head % H).to(tl.int64) * stride_h) * _UNIT


@triton.jit
def _dense_head(x, head, H, length, D: tl.constexpr):
    """Points to the first row of a head of a [B, length, H, D] tensor."""
    return x + ((head // H).to(tl.int64) * length * H + head % H) * D


@triton.jit
def _load_rows(
    x, row, length, stride, MASK_ROWS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr
):
    """Loads rows of D numbers, zero where there are none."""
    PADDED: tl.constexpr = (D + _UNIT - 1) // _UNIT * _UNIT
    d = tl.arange(0, BLOCK_D)
    x += row.to(tl.int64)[:, None] * stride * _UNIT + d[None, :]
    if MASK_ROWS:
        return tl.load(x, mask=(row < length)[:, None] & (d < PADDED)[None, :], other=0.0)
    elif PADDED < BLOCK_D:
        return tl.load(x, mask=(d < PADDED)[None, :], other=0.0)
    else:
        return tl.load(x)


@triton.jit
def _store_rows(x, value, row, length, H, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Stores rows of a head of a [B, length, H, D] tensor."""
    d = tl.arange(0, BLOCK_D)
    x += row.to(tl.int64)[:, None] * (H * D) + d[None, :]
    mask = (row < length)[:, None] & (d < D)[None, :]
    tl.store(x, value.to(x.dtype.element_ty), mask=mask)


@triton.jit
def _dot(a, b, total, PRECISION: tl.constexpr, UPCAST: tl.constexpr):
    if UPCAST:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def _forward(
    q,  # [B, H, LQ, D]
    k,  # [B, H, LK, D]
    v,  # [B, H, LK, D]
    o,  # [B, LQ, H, D]
    lse,  # [B, H, LQ], float32
    scale,  # of base-2 logarithms
    H,
    LQ,
    LK,
    q_b,
    q_h,
    q_l,
    k_b,
    k_h,
    k_l,
    v_b,
    v_h,
    v_l,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    MASK_KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    num_blocks = tl.cdiv(LQ, BLOCK_Q)
    head = tl.program_id(0) // num_blocks
    query = tl.program_id(0) % num_blocks * BLOCK_Q + tl.arange(0, BLOCK_Q)
    scale = tl.cast(scale, tl.float32)
    q = _load_rows(_head(q, head, H, q_b, q_h), query, LQ, q_l, True, D, BLOCK_D)
    k = _head(k, head, H, k_b, k_h)
    v = _head(v, head, H, v_b, v_h)

    highest = tl.full((BLOCK_Q,), float("-inf"), tl.float32)
    norm = tl.zeros((BLOCK_Q,), tl.float32)
    total = tl.zeros((BLOCK_Q, BLOCK_D), tl.float32)
    for start in range(0, LK, BLOCK_K):
        key = start + tl.arange(0, BLOCK_K)
        keys = _load_rows(k, key, LK, k_l, MASK_KEYS, D, BLOCK_D)
        score = _dot(q, tl.trans(keys), None, PRECISION, UPCAST) * scale
        if MASK_KEYS:
            score = tl.where((key < LK)[None, :], score, float("-inf"))
        new = tl.maximum(highest, tl.max(score, 1))
        # While all scores are -inf, so is their maximum, and -inf - -inf would be NaN.
        shift = tl.where(new == float("-inf"), 0.0, new)
        weight = tl.exp2(score - shift[:, None])
        decay = tl.exp2(highest - shift)
        norm = norm * decay + tl.sum(weight, 1)
        values = _load_rows(v, key, LK, v_l, MASK_KEYS, D, BLOCK_D)
        total = _dot(weight.to(values.dtype), values, total * decay[:, None], PRECISION, UPCAST)
        highest = new
    _store_rows(_dense_head(o, head, H, LQ, D), total / norm[:, None], query, LQ, H, D, BLOCK_D)
    tl.store(lse + head.to(tl.int64) * LQ + query, highest + tl.log2(norm), mask=query < LQ)


@triton.jit
def _delta(
    o,  # [B, LQ, H, D]
    grad,  # [B, H, LQ, D]
    delta,  # [B, H, LQ], float32
    H,
    LQ,
    grad_b,
    grad_h,
    grad_l,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_Q: tl.constexpr,
):
    num_blocks = tl.cdiv(LQ, BLOCK_Q)
    head = tl.program_id(0) // num_blocks
    query = tl.program_id(0) % num_blocks * BLOCK_Q + tl.arange(0, BLOCK_Q)
    d = tl.arange(0, BLOCK_D)
    inside = (query < LQ)[:, None] & (d < D)[None, :]
    o = _dense_head(o, head, H, LQ, D) + query.to(tl.int64)[:, None] * (H * D) + d[None, :]
    value = tl.load(o, mask=inside, other=0.0).to(tl.float32)
    grad = _head(grad, head, H, grad_b, grad_h)
    grad = _load_rows(grad, query, LQ, grad_l, True, D, BLOCK_D).to(tl.float32)
    tl.store(delta + head.to(tl.int64) * LQ + query, tl.sum(value * grad, 1), mask=query < LQ)


@triton.jit
def _backward(
    q,  # [B, H, LQ, D]
    k,  # [B, H, LK, D]
    v,  # [B, H, LK, D]
    grad,  # [B, H, LQ, D]
    lse,  # [B, H, LQ], float32
    delta,  # [B, H, LQ], float32
    grad_q,  # [B, LQ, H, D]
    grad_k,  # [B, LK, H, D]
    grad_v,  # [B, LK, H, D]
    scale,
    scale_2,  # of base-2 logarithms
    H,
    LQ,
    LK,
    q_b,
    q_h,
    q_l,
    k_b,
    k_h,
    k_l,
    v_b,
    v_h,
    v_l,
    grad_b,
    grad_h,
    grad_l,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    MASK_QUERIES: tl.constexpr,
    MASK_KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
    BLOCK_OWN: tl.constexpr,  # rows whose gradient a program computes
    BLOCK_STEP: tl.constexpr,  # rows that it reads at a time
):
    key_blocks = tl.cdiv(LK, BLOCK_OWN)
    num_blocks = key_blocks + tl.cdiv(LQ, BLOCK_OWN)
    head = tl.program_id(0) // num_blocks
    block = tl.program_id(0) % num_blocks
    scale = tl.cast(scale, tl.float32)
    scale_2 = tl.cast(scale_2, tl.float32)
    q = _head(q, head, H, q_b, q_h)
    k = _head(k, head, H, k_b, k_h)
    v = _head(v, head, H, v_b, v_h)
    grad = _head(grad, head, H, grad_b, grad_h)
    lse += head.to(tl.int64) * LQ
    delta += head.to(tl.int64) * LQ

    if block < key_blocks:
        key = block * BLOCK_OWN + tl.arange(0, BLOCK_OWN)
        keys = _load_rows(k, key, LK, k_l, True, D, BLOCK_D)
        values = _load_rows(v, key, LK, v_l, True, D, BLOCK_D)
        total_k = tl.zeros((BLOCK_OWN, BLOCK_D), tl.float32)
        total_v = tl.zeros((BLOCK_OWN, BLOCK_D), tl.float32)
        for start in range(0, LQ, BLOCK_STEP):
            query = start + tl.arange(0, BLOCK_STEP)
            queries = _load_rows(q, query, LQ, q_l, MASK_QUERIES, D, BLOCK_D)
            grads = _load_rows(grad, query, LQ, grad_l, MASK_QUERIES, D, BLOCK_D)
            inside = query < LQ
            if MASK_QUERIES:
                norm = tl.load(lse + query, mask=inside, other=0.0)
                mean = tl.load(delta + query, mask=inside, other=0.0)
            else:
                norm = tl.load(lse + query)
                mean = tl.load(delta + query)
            score = _dot(keys, tl.trans(queries), None, PRECISION, UPCAST) * scale_2
            weight = tl.exp2(score - norm[None, :])
            if MASK_QUERIES:
                weight = tl.where(inside[None, :], weight, 0.0)
            total_v = _dot(weight.to(grads.dtype), grads, total_v, PRECISION, UPCAST)
            pull = _dot(values, tl.trans(grads), None, PRECISION, UPCAST) - mean[None, :]
            pull = (weight * pull).to(queries.dtype)
            total_k = _dot(pull, queries, total_k, PRECISION, UPCAST)
        grad_k = _dense_head(grad_k, head, H, LK, D)
        grad_v = _dense_head(grad_v, head, H, LK, D)
        _store_rows(grad_k, total_k * scale, key, LK, H, D, BLOCK_D)
        _store_rows(grad_v, total_v, key, LK, H, D, BLOCK_D)
    else:
        query = (block - key_blocks) * BLOCK_OWN + tl.arange(0, BLOCK_OWN)
        queries = _load_rows(q, query, LQ, q_l, True, D, BLOCK_D)
        grads = _load_rows(grad, query, LQ, grad_l, True, D, BLOCK_D)
        norm = tl.load(lse + query, mask=query < LQ, other=0.0)
        mean = tl.load(delta + query, mask=query < LQ, other=0.0)
        total_q = tl.zeros((BLOCK_OWN, BLOCK_D), tl.float32)
        for start in range(0, LK, BLOCK_STEP):
            key = start + tl.arange(0, BLOCK_STEP)
            keys = _load_rows(k, key, LK, k_l, MASK_KEYS, D, BLOCK_D)
            values = _load_rows(v, key, LK, v_l, MASK_KEYS, D, BLOCK_D)
            score = _dot(queries, tl.trans(keys), None, PRECISION, UPCAST) * scale_2
            weight = tl.exp2(score - norm[:, None])
            if MASK_KEYS:
                weight = tl.where((key < LK)[None, :], weight, 0.0)
            pull = _dot(grads, tl.trans(values), None, PRECISION, UPCAST) - mean[:, None]
            total_q = _dot((weight * pull).to(keys.dtype), keys, total_q, PRECISION, UPCAST)
        grad_q = _dense_head(grad_q, head, H, LQ, D)
        _store_rows(grad_q, total_q * scale, query, LQ, H, D, BLOCK_D)


def forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes softmax(q k^T * scale) v; see `kernels.attention.reference`.

    Rows that 16-byte loads cannot take are copied first: strides that are no multiples of 8, a last
    dimension that is not contiguous or whose size is no multiple of 8.

    Args:
        q: [B, H, LQ, D], float32 (products in tf32), bfloat16 or float16.
        k: [B, H, LK, D].
        v: [B, H, LK, D].
        scale: Factor of the scores.

    Returns:
        The result, [B, H, LQ, D] laid out as [B, LQ, H, D], and the base-2 logarithm of the sum of
        the exponentials of every query's scores, [B, H, LQ], float32.
    """
    batch, heads, queries, size = q.shape
    keys = k.shape[2]
    o = torch.empty((batch, queries, heads, size), dtype=q.dtype, device=q.device)
    lse = torch.empty((batch, heads, queries), dtype=torch.float32, device=q.device)
    q, k, v = (_readable(x) for x in (q, k, v))
    dims = _dims(batch * heads, queries, keys, size)
    config = choose("attention.forward", q.dtype, dims, q.device)
    launch(
        _forward,
        (batch * heads * ceil_div(queries, config["BLOCK_Q"]),),
        *(q, k, v, o, lse, scale * math.log2(math.e), heads, queries, keys),
        *(*_strides(q), *_strides(k), *_strides(v)),
        config=config,
        D=size,
        BLOCK_D=_block(size),
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
    """Computes the gradients of q, k and v; see `kernels.attention.reference_backward`.

    Args:
        grad: Gradient of the result, [B, H, LQ, D].
        q: [B, H, LQ, D], float32 (products in tf32), bfloat16 or float16.
        k: [B, H, LK, D].
        v: [B, H, LK, D].
        o: The result, in the layout that `forward` gives it.
        lse: What `forward` gave.
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
    grad, q, k, v = (_readable(x) for x in (grad, q, k, v))
    dims = _dims(batch * heads, queries, keys, size)
    config = choose("attention.delta", q.dtype, dims, q.device)
    launch(
        _delta,
        (batch * heads * ceil_div(queries, config["BLOCK_Q"]),),
        *(o, grad, delta, heads, queries, *_strides(grad)),
        config=config,
        D=size,
        BLOCK_D=_block(size),
    )
    config = choose("attention.backward", q.dtype, dims, q.device)
    own, step = config["BLOCK_OWN"], config["BLOCK_STEP"]
    launch(
        _backward,
        (batch * heads * (ceil_div(keys, own) + ceil_div(queries, own)),),
        *(q, k, v, grad, lse, delta, grad_q, grad_k, grad_v),
        *(scale, scale * math.log2(math.e), heads, queries, keys),
        *(*_strides(q), *_strides(k), *_strides(v), *_strides(grad)),
        config=config,
        D=size,
        BLOCK_D=_block(size),
        MASK_QUERIES=queries % step != 0,
        MASK_KEYS=keys % step != 0,
        PRECISION="tf32",
    )
    return grad_q.transpose(1, 2), grad_k.transpose(1, 2), grad_v.transpose(1, 2)


def _readable(x: torch.Tensor) -> torch.Tensor:
    """Returns the same numbers in rows that begin at multiples of 16 bytes, padded with zeros."""
    padding = -x.shape[-1] % _UNIT.value
    if padding:
        x = F.pad(x, (0, padding))
    # With an open batch a stride is a symbol, and what is right for one batch must be for all.
    aligned = x.stride(-1) == 1 and all(
        statically_known_true(s % _UNIT.value == 0) for s in x.stride()[:-1]
    )
    return x if aligned else x.contiguous()


def _strides(x: torch.Tensor) -> list[int]:
    """Returns the strides of batch, head and row in units of 8 elements."""
    return [s // _UNIT.value if n > 1 else 0 for n, s in zip(x.shape[:3], x.stride(), strict=False)]


def _block(size: int) -> int:
    # Products take at least 16 numbers at once.
    return max(16, triton.next_power_of_2(size))


def _dims(heads: int, queries: int, keys: int, size: int) -> dict[str, int]:
    return {"heads": heads, "queries": queries, "keys": keys, "head_size": size}


# (heads, tokens, head size): long and short, wide and narrow, and two that no tile divides, one of
# them padded.
_SHAPES = [(1, 1024, 64), (1, 256, 128), (3, 64, 64), (1, 200, 40), (2, 77, 100), (4, 64, 32)]


def problems() -> Iterator[Problem]:
    """Yields what `kernels.check` compiles: parts of one projection for 32 images."""
    for heads, length, size in _SHAPES:
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            qkv = torch.empty((32, length, 3, heads, size), dtype=dtype, device="meta")

            def call(qkv: torch.Tensor = qkv) -> None:
                q, k, v = qkv.permute(2, 0, 3, 1, 4)
                o, lse = forward(q, k, v, 0.125)
                backward(o, q, k, v, o, lse, 0.125)

            yield Problem(f"{heads}x{length}x{size} {dtype}", call)
