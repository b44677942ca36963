"""The Triton kernels of softmax attention.

Tensors are read with any strides of batch, head and row; a row is contiguous.
"""

import triton
import triton.language as tl

# Rows begin at multiples of this many elements. Strides are passed divided by it, which tells the
# compiler to load 16 bytes at once: it checks arguments for no other divisor than 16.
UNIT = tl.constexpr(8)


@triton.jit
def _head(x, head, H, stride_b, stride_h):
    """Points to the first row of a head of a tensor with any strides."""
    # Divided in 32 bits; a 64-bit division is a subroutine.
    batch = (head // H).to(tl.int64)
    return x + (batch * stride_b + (head % H).to(tl.int64) * stride_h) * UNIT


@triton.jit
def _dense_head(x, head, H, length, D: tl.constexpr):
    """Points to the first row of a head of a [B, length, H, D] tensor."""
    return x + ((head // H).to(tl.int64) * length * H + head % H) * D


@triton.jit
def _load_rows(
    x, row, length, stride, MASK_ROWS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr
):
    """Loads rows of D elements, zero outside."""
    PADDED: tl.constexpr = (D + UNIT - 1) // UNIT * UNIT
    d = tl.arange(0, BLOCK_D)
    x += row.to(tl.int64)[:, None] * stride * UNIT + d[None, :]
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
def forward_kernel(
    q,  # [B, H, LQ, D]
    k,  # [B, H, LK, D]
    v,  # [B, H, LK, D]
    o,  # [B, LQ, H, D]
    lse,  # [B, H, LQ], float32
    scale,  # times log2(e)
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
) -> None:
    """A program computes the output of BLOCK_Q queries of one head, over all keys."""
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
        # While all scores are -inf, so is their maximum; -inf - -inf would be NaN.
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
def delta_kernel(
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
) -> None:
    """Computes the sum over each row of output times gradient, which all keys share."""
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
def backward_kernel(
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
    scale_2,  # scale times log2(e)
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
    BLOCK_STEP: tl.constexpr,  # rows that it reads per iteration
) -> None:
    """The first programs of a head compute gradients of keys and values, the others of queries."""
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
