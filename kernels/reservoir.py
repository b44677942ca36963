"""Reservoir sampling of a whole batch at once: reference and operator.

Source: Vitter 1985, "Random Sampling with a Reservoir", algorithm R.
"""

from collections.abc import Sequence
from typing import Any

import torch

from mammoth_compiled.kernels import philox
from mammoth_compiled.kernels.launch import on_gpu, operator
from mammoth_compiled.kernels.problem import Work

# Keeps these draws apart from those of other operations in the same step.
STREAM = 2 << 16


def reservoir_slots(
    num_seen: int,
    batch: int,
    capacity: int,
    device: torch.device,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Draws the slot in which each item of a batch is kept.

    Args:
        num_seen: Items of the stream before this batch.
        batch: B, number of items.
        capacity: N, number of slots.
        device: Where to draw.
        generator: Random generator of that device; None takes the global one.

    Returns:
        Slots, int64, [B]; see `slots_from_draws`.
    """
    draw = torch.rand(batch, dtype=torch.float64, device=device, generator=generator)
    return slots_from_draws(draw, num_seen, capacity)


def slots_from_draws(
    draw: torch.Tensor, num_seen: int | torch.Tensor, capacity: int
) -> torch.Tensor:
    """Returns the slot in which each item of a batch is kept, given the random draws.

    Item i is the (num_seen + i)-th of the stream, counted from 0. While the reservoir fills, it
    takes the next free slot; later it takes slot j drawn from 0..num_seen+i if j < capacity.

    A draw is a multiple of 2^-53 and j is floor(draw * n), n = num_seen + i + 1: a number's chance
    differs from 1 / n by less than 2^-52, rounding of the product included.

    Args:
        draw: Uniform over [0, 1), float64, [B].
        num_seen: Items of the stream before this batch, a number or int64 of one element.
        capacity: N, number of slots.

    Returns:
        Slots, int64, [B]; -1 for an item that is not kept. Of several items with one slot, the
        last stays, as in the sequential rule.
    """
    position = torch.arange(len(draw), device=draw.device) + num_seen
    slot = torch.minimum((draw * (position + 1)).long(), position)
    slot = torch.where(position < capacity, position, slot)
    return torch.where(slot < capacity, slot, -1)


def slot_owners(slots: torch.Tensor, capacity: int) -> torch.Tensor:
    """Returns the row whose item each slot holds in the end, int64, [N]; -1 for untouched slots.

    Args:
        slots: One slot per row or -1, int64, [B].
        capacity: N, number of slots.
    """
    rows = torch.arange(len(slots), device=slots.device)
    owner = torch.full((capacity + 1,), -1, device=slots.device)
    # Rows that are not kept all meet in one slot past the end.
    owner.scatter_reduce_(0, torch.where(slots < 0, capacity, slots), rows, "amax")
    return owner[:capacity]


def write_slots(
    store: torch.Tensor, rows: torch.Tensor, slots: torch.Tensor, owner: torch.Tensor
) -> None:
    """Writes each kept row into its slot of `store`, in place.

    Shapes are fixed and nothing waits for the device, so it can be part of a CUDA graph.

    Args:
        store: The reservoir, [N, ...].
        rows: The batch, [B, ...].
        slots: Slot of each row or -1, int64, [B].
        owner: `slot_owners(slots, N)`.
    """
    slot = slots.clamp(min=0)
    row = owner[slot]
    kept = (row >= 0).view(-1, *[1] * (rows.dim() - 1))
    # Every row writes what its slot shall hold in the end, so rows with one slot agree.
    store[slot] = torch.where(kept, rows[row.clamp(min=0)].to(store.dtype), store[slot])


def draws(state: torch.Tensor, batch: int, stream: int) -> torch.Tensor:
    """Draws a number for each item of a batch.

    Args:
        state: State of the generator, `philox.random_state`; it is not advanced.
        batch: B, number of items.
        stream: Tells reservoirs of one step apart, 0 to 65535.

    Returns:
        float64 in [0, 1), [B].
    """
    high, low, _, _ = philox.draw(state, batch, STREAM + stream)
    return philox.uniform(high, low)


def update(
    stores: Sequence[torch.Tensor],
    rows: Sequence[torch.Tensor],
    num_seen: torch.Tensor,
    state: torch.Tensor,
    *,
    index: torch.Tensor | None = None,
    by_index: Sequence[bool] | None = None,
    stream: int = 0,
) -> None:
    """Offers a batch of the stream to a reservoir kept on the device, one launch on a GPU.

    Neither the counter nor the state is changed, so the programs cannot race and a second call
    decides alike. The caller runs `num_seen += B` and `philox.advance(state)` afterwards, in the
    same CUDA graph if there is one.

    Args:
        stores: The reservoir's tensors, each [N, ...], contiguous or channels_last; changed in
            place.
        rows: What to write into each, [B, ...], cast to the store's type; none may be a part of a
            store.
        num_seen: Items of the stream before this batch, int64, one element, on the device.
        state: State of the generator, `philox.random_state`.
        index: Rows of the batch in a larger tensor, int64, [B], for those that are not gathered
            yet.
        by_index: For each of `rows` whether it is that larger tensor, [K, ...]; it must lie in
            memory as its store does. None: no one is.
        stream: Tells reservoirs of one step apart, 0 to 65535.

    Raises:
        ValueError: If the tensors do not fit each other.
    """
    flags = [False] * len(rows) if by_index is None else list(by_index)
    reservoir_op(list(stores), list(rows), flags, index, num_seen, state, stream)


@operator("reservoir", mutates=("stores",))
def reservoir_op(
    stores: Sequence[torch.Tensor],
    rows: Sequence[torch.Tensor],
    by_index: Sequence[bool],
    index: torch.Tensor | None,
    num_seen: torch.Tensor,
    state: torch.Tensor,
    stream: int,
) -> None:
    """Computes `update`."""
    batch = _check_rows(stores, rows, by_index, index)
    if on_gpu(num_seen, state, *stores, *rows):
        from mammoth_compiled.kernels.gpu import reservoir as gpu

        laid = [r.contiguous(memory_format=layout_of(s)) for s, r in zip(stores, rows, strict=True)]
        gpu.update(stores, laid, by_index, index, num_seen, state, stream, batch)
        return
    slots = slots_from_draws(draws(state, batch, stream), num_seen, len(stores[0]))
    owner = slot_owners(slots, len(stores[0]))
    for store, source, flag in zip(stores, rows, by_index, strict=True):
        write_slots(store, source[index] if flag else source, slots, owner)


@reservoir_op.register_fake
def _fake(*_: Any) -> None:
    return None


def work(batch: int, kept: int, row_bytes: int) -> Work:
    """Returns what an update takes at least.

    Args:
        batch: Items offered.
        kept: Items of them that are written.
        row_bytes: Bytes of an item over all stores.
    """
    # Two words an item out of ten rounds of two products.
    return Work(bytes_moved=2 * kept * row_bytes, operations=20 * batch)


def _check_rows(
    stores: Sequence[torch.Tensor],
    rows: Sequence[torch.Tensor],
    by_index: Sequence[bool],
    index: torch.Tensor | None,
) -> int:
    """Returns the number of items."""
    if not len(stores) == len(rows) == len(by_index) > 0:
        raise ValueError(
            f"reservoir: {len(stores)} stores, {len(rows)} rows and {len(by_index)} flags; "
            "each store needs one of each"
        )
    if any(by_index) and index is None:
        raise ValueError("reservoir: rows are to be taken by index, but index is None")
    batch = len(rows[0]) if index is None else len(index)
    for k, (store, source, flag) in enumerate(zip(stores, rows, by_index, strict=True)):
        if len(store) != len(stores[0]) or (not flag and len(source) != batch):
            raise ValueError(
                f"reservoir: store {k} has {len(store)} slots and its rows are {len(source)}; "
                f"expected {len(stores[0])} slots and {batch} rows"
            )
        if store.shape[1:] != source.shape[1:]:
            raise ValueError(
                f"reservoir: store {k} holds rows of shape {list(store.shape[1:])}, "
                f"got {list(source.shape[1:])}"
            )
        if not store.is_contiguous(memory_format=layout_of(store)):
            raise ValueError(
                f"reservoir: store {k} is neither contiguous nor channels_last; "
                f"its strides are {list(store.stride())}"
            )
        if flag and not source.is_contiguous(memory_format=layout_of(store)):
            raise ValueError(
                f"reservoir: rows {k} are taken by index, so they must lie in memory as store {k} "
                f"does; strides are {list(source.stride())} and {list(store.stride())}"
            )
    return batch


def layout_of(store: torch.Tensor) -> torch.memory_format:
    """Returns in which layout rows must lie to be copied to a store as they are."""
    last = store.dim() == 4 and not store.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format
