"""Reservoir sampling of a whole batch at once: the reference.

Source: Vitter 1985, "Random Sampling with a Reservoir", algorithm R.
"""

import torch


def reservoir_slots(
    num_seen: int,
    batch: int,
    capacity: int,
    device: torch.device,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Draws the slot in which each item of a batch is kept.

    Item i is the (num_seen + i)-th of the stream, counted from 0. While the reservoir fills, it
    takes the next free slot; later it takes slot j drawn from 0..num_seen+i if j < capacity.

    Args:
        num_seen: Items of the stream before this batch.
        batch: B, number of items.
        capacity: N, number of slots.
        device: Where to draw.
        generator: Random generator of that device; None takes the global one.

    Returns:
        Slots, int64, [B]; -1 for an item that is not kept. Of several items with one slot, the
        last stays, as in the sequential rule.
    """
    position = torch.arange(num_seen, num_seen + batch, device=device)
    # float64 draws keep the bias of floor(u * n) under n / 2^53.
    draw = torch.rand(batch, dtype=torch.float64, device=device, generator=generator)
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
