"""Reservoir update of all tensors of a buffer in one Triton launch.

A program copies a chunk of one item. It draws the slots of the whole batch itself, which costs less
than a second launch, since the random numbers are counter-based. If a later item has the same slot
it exits, so that exactly one program writes an element and the last item stays.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from mammoth_compiled.kernels.reservoir.reference import STREAM
from mammoth_compiled.kernels.runtime.launch import ceil_div, launch
from mammoth_compiled.kernels.runtime.tiles import select_tile

# Tensors that one launch can write; Buffer has no more.
STORES = 5


@triton.jit
def _slot(item, seed, step, num_seen, stream, CAPACITY: tl.constexpr):
    """Returns the slot of an item or -1, as `slots_from_draws` does, to the bit."""
    low, high = step.to(tl.uint32), (step >> 32).to(tl.uint32)
    first, second, _, _ = tl.philox(seed, low, high, item, stream)
    draw = ((first.to(tl.int64) << 21) | (second >> 11).to(tl.int64)).to(tl.float64) * 2.0**-53
    position = num_seen + item
    slot = tl.minimum((draw * (position + 1).to(tl.float64)).to(tl.int64), position)
    slot = tl.where(position < CAPACITY, position, slot)
    return tl.where(slot < CAPACITY, slot, -1)


@triton.jit
def _copy(
    store, rows, index, slot, item, chunk,
    ROW: tl.constexpr, BY_INDEX: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Copies a chunk of an item's row of ROW elements; ROW is 0 if there is no store."""
    if ROW > 0:
        row = (tl.load(index + item) if BY_INDEX else item).to(tl.int64)
        at = chunk * BLOCK + tl.arange(0, BLOCK)
        value = tl.load(rows + row * ROW + at, mask=at < ROW, other=0)
        tl.store(store + slot * ROW + at, value.to(store.dtype.element_ty), mask=at < ROW)


@triton.jit
def update_kernel(
    store0, store1, store2, store3, store4,  # each [N, ROW]
    rows0, rows1, rows2, rows3, rows4,  # each [B, ROW], or [K, ROW] if by index
    index,  # [B], int64
    num_seen,  # [1], int64
    state,  # [2], int64: seed and step
    stream,
    NUM_ITEMS: tl.constexpr,  # B
    CAPACITY: tl.constexpr,
    ROW0: tl.constexpr, ROW1: tl.constexpr, ROW2: tl.constexpr, ROW3: tl.constexpr,
    ROW4: tl.constexpr,
    BY_INDEX0: tl.constexpr, BY_INDEX1: tl.constexpr, BY_INDEX2: tl.constexpr,
    BY_INDEX3: tl.constexpr, BY_INDEX4: tl.constexpr,
    BLOCK0: tl.constexpr, BLOCK1: tl.constexpr, BLOCK2: tl.constexpr, BLOCK3: tl.constexpr,
    BLOCK4: tl.constexpr,
    BLOCK_ITEMS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """A program writes a chunk of one item to all stores, unless a later item has its slot."""
    item = tl.program_id(0)
    chunk = tl.program_id(1)
    seed, step, seen = tl.load(state), tl.load(state + 1), tl.load(num_seen)
    slot = _slot(item, seed, step, seen, stream, CAPACITY)
    if slot >= 0:
        replaced = tl.zeros((BLOCK_ITEMS,), tl.int32)
        for start in range(0, NUM_ITEMS, BLOCK_ITEMS):
            other = start + tl.arange(0, BLOCK_ITEMS)
            same = _slot(other, seed, step, seen, stream, CAPACITY) == slot
            replaced |= (same & (other > item) & (other < NUM_ITEMS)).to(tl.int32)
        if tl.max(replaced, 0) == 0:
            _copy(store0, rows0, index, slot, item, chunk, ROW0, BY_INDEX0, BLOCK0)
            _copy(store1, rows1, index, slot, item, chunk, ROW1, BY_INDEX1, BLOCK1)
            _copy(store2, rows2, index, slot, item, chunk, ROW2, BY_INDEX2, BLOCK2)
            _copy(store3, rows3, index, slot, item, chunk, ROW3, BY_INDEX3, BLOCK3)
            _copy(store4, rows4, index, slot, item, chunk, ROW4, BY_INDEX4, BLOCK4)


def update(
    stores: Sequence[torch.Tensor],
    rows: Sequence[torch.Tensor],
    by_index: Sequence[bool],
    index: torch.Tensor | None,
    num_seen: torch.Tensor,
    state: torch.Tensor,
    stream: int,
    batch: int,
) -> None:
    """Writes a batch into the reservoir; see `op.update_reservoir`.

    Args:
        stores: Each [N, ...], dense.
        rows: Each [B, ...], or [K, ...] if by index; in the layout of its store.
        by_index: For each of `rows` whether it is read through `index`.
        index: int64, [B], or None.
        num_seen: int64, one element.
        state: Seed and step, int64, [2].
        stream: Distinguishes the reservoirs of one step.
        batch: B, number of items.
    """
    # A second launch makes the same decisions as the first.
    for first in range(0, len(stores), STORES):
        part = slice(first, first + STORES)
        _launch(stores[part], rows[part], by_index[part], index, num_seen, state, stream, batch)


def _launch(
    stores: Sequence[torch.Tensor],
    rows: Sequence[torch.Tensor],
    by_index: Sequence[bool],
    index: torch.Tensor | None,
    num_seen: torch.Tensor,
    state: torch.Tensor,
    stream: int,
    batch: int,
) -> None:
    sizes = [store[0].numel() for store in stores]
    largest = max(sizes)
    dtype = stores[sizes.index(largest)].dtype
    key = {"items": batch, "row": largest}
    config = select_tile("reservoir.update", dtype, key, state.device)
    block = config["BLOCK"]
    absent = STORES - len(stores)
    # Where there is no store, a tensor that is only read is passed.
    spare = [num_seen] * absent
    constants: dict[str, int] = {}
    for k, (size, flag) in enumerate(
        zip([*sizes, *[0] * absent], [*by_index, *[False] * absent], strict=True)
    ):
        constants[f"ROW{k}"] = size
        constants[f"BY_INDEX{k}"] = flag
        constants[f"BLOCK{k}"] = min(block, triton.next_power_of_2(max(size, 1)))
    launch(
        update_kernel,
        (batch, ceil_div(largest, block)),
        *(*stores, *spare, *rows, *spare),
        num_seen if index is None else index,
        num_seen,
        state,
        STREAM + stream,
        config=config,
        NUM_ITEMS=batch,
        CAPACITY=len(stores[0]),
        **constants,
    )
