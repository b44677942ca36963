"""Random rows without replacement in one program of Triton, which also advances the generator."""

import torch
import triton
import triton.language as tl

from mammoth_compiled.kernels.draw.reference import STREAM
from mammoth_compiled.kernels.runtime.launch import launch
from mammoth_compiled.kernels.runtime.tiles import select_tile


@triton.jit
def _mixed(x, key):
    """Hashes 32-bit words with a key, as `reference._mixed`."""
    x = (x.to(tl.uint32) ^ key) * 0xCC9E2D51
    x = (x ^ (x >> 16)) * 0x85EBCA6B
    x = (x ^ (x >> 13)) * 0xC2B2AE35
    return x ^ (x >> 16)


@triton.jit
def _shifted(x, other, key, size):
    """Shifts x in 0..size-1 by a function of the other coordinate."""
    shift = ((_mixed(other, key).to(tl.uint64) * size.to(tl.uint64)) >> 32).to(tl.int32)
    x = x + shift
    return tl.where(x >= size, x - size, x)


@triton.jit
def _two_rounds(left, right, a, b, first, second):
    left = _shifted(left, right, first, a)
    return left, _shifted(right, left, second, b)


@triton.jit
def _network(x, a, b, k0, k1, k2, k3, k4, k5, k6, k7, k8, k9, k10, k11, k12, k13, k14, k15):
    """Permutes 0..a*b-1, as `reference._network`."""
    left = x // b
    right = x - left * b
    left, right = _two_rounds(left, right, a, b, k0, k1)
    left, right = _two_rounds(left, right, a, b, k2, k3)
    left, right = _two_rounds(left, right, a, b, k4, k5)
    left, right = _two_rounds(left, right, a, b, k6, k7)
    left, right = _two_rounds(left, right, a, b, k8, k9)
    left, right = _two_rounds(left, right, a, b, k10, k11)
    left, right = _two_rounds(left, right, a, b, k12, k13)
    left, right = _two_rounds(left, right, a, b, k14, k15)
    return left * b + right


@triton.jit
def permuted(x, n, seed, step, stream) -> tl.tensor:
    """Maps items in 0..n-1 to rows, as `reference.permuted`."""
    low, high = step.to(tl.uint32), (step >> 32).to(tl.uint32)
    k0, k1, k2, k3 = tl.philox(seed, low, high, 0, stream)
    k4, k5, k6, k7 = tl.philox(seed, low, high, 1, stream)
    k8, k9, k10, k11 = tl.philox(seed, low, high, 2, stream)
    k12, k13, k14, k15 = tl.philox(seed, low, high, 3, stream)
    a = tl.sqrt(n.to(tl.float32)).to(tl.int32)
    a = tl.where(a * a < n, a + 1, a)
    b = (n + a - 1) // a
    x = _network(x, a, b, k0, k1, k2, k3, k4, k5, k6, k7, k8, k9, k10, k11, k12, k13, k14, k15)
    # It ends: the network permutes 0..a*b-1, so that a walk from an item returns below n.
    while tl.max((x >= n).to(tl.int32), 0) > 0:
        again = _network(
            x, a, b, k0, k1, k2, k3, k4, k5, k6, k7, k8, k9, k10, k11, k12, k13, k14, k15
        )
        x = tl.where(x >= n, again, x)
    return x


@triton.jit(do_not_specialize=["num_rows"])
def draw_kernel(
    rows,  # [SIZE], int64
    state,  # [2], int64: seed and step
    mask,  # [NUM_MASKED], bool
    marked,  # [NUM_MASKED], int64: workspace
    num_rows,
    stream,
    SIZE: tl.constexpr,
    NUM_MASKED: tl.constexpr,  # 0 without a mask
    BLOCK: tl.constexpr,
    BLOCK_MASK: tl.constexpr,
) -> None:
    """One program draws all rows, then advances the step."""
    seed, step = tl.load(state), tl.load(state + 1)
    n = num_rows
    if NUM_MASKED > 0:
        n = num_rows * 0
        for start in range(0, NUM_MASKED, BLOCK_MASK):
            row = start + tl.arange(0, BLOCK_MASK)
            is_marked = tl.load(mask + row, mask=row < NUM_MASKED, other=0).to(tl.int32)
            number = n + tl.cumsum(is_marked, 0) - is_marked
            tl.store(marked + number, row.to(tl.int64), mask=is_marked > 0)
            n += tl.sum(is_marked, 0)
    # The workspace is written and the step is read by all threads.
    tl.debug_barrier()
    for start in range(0, SIZE, BLOCK):
        item = start + tl.arange(0, BLOCK)
        row = permuted(item % n, n, seed, step, stream).to(tl.int64)
        if NUM_MASKED > 0:
            row = tl.load(marked + row)
        tl.store(rows + item, row, mask=item < SIZE)
    tl.store(state + 1, step + 1)


def draw(
    size: int, num_rows: int, mask: torch.Tensor | None, state: torch.Tensor, stream: int
) -> torch.Tensor:
    """Draws rows and advances the state; see `op.draw_rows`.

    Args:
        size: M.
        num_rows: n.
        mask: bool, [n], or None.
        state: Seed and step, int64, [2].
        stream: Distinguishes the draws of one step.

    Returns:
        int64, [M].
    """
    rows = state.new_empty((size,))
    # Without a mask, tensors that are not read are passed.
    marked = rows if mask is None else state.new_empty((num_rows,))
    config = select_tile("draw.draw", rows.dtype, {"size": size}, state.device)
    launch(
        draw_kernel,
        (1,),
        *(rows, state, rows if mask is None else mask, marked, num_rows, STREAM + stream),
        config=config,
        SIZE=size,
        NUM_MASKED=0 if mask is None else num_rows,
    )
    return rows
