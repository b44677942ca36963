"""Reservoir sampling in plain torch: random draws, slots, and writing the rows that stay."""

import torch

from mammoth_compiled.kernels.runtime import philox

# Keeps these draws apart from those of other operations in the same step.
STREAM = 2 << 16


def reservoir_slots(
    num_seen: int,
    batch: int,
    capacity: int,
    device: torch.device,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Draws the slot for each item of a batch with torch's generator.

    Args:
        num_seen: Items of the stream before this batch.
        batch: B, number of items.
        capacity: N, number of slots.
        device: Device of the result.
        generator: Random generator of that device; None uses the global one.

    Returns:
        Slots, int64, [B]; see `slots_from_draws`.
    """
    draws = torch.rand(batch, dtype=torch.float64, device=device, generator=generator)
    return slots_from_draws(draws, num_seen, capacity)


def slots_from_draws(
    draws: torch.Tensor, num_seen: int | torch.Tensor, capacity: int
) -> torch.Tensor:
    """Returns the slot for each item of a batch, given the random draws.

    Item i is number num_seen + i of the stream, counted from 0. While the reservoir fills, it gets
    the next free slot; afterwards slot j, drawn from 0..num_seen+i, if j < capacity.

    A draw is a multiple of 2^-53 and j is floor(draw * n) with n = num_seen + i + 1: the
    probability of a slot differs from 1 / n by less than 2^-52, including rounding.

    Args:
        draws: Uniform over [0, 1), float64, [B].
        num_seen: Items of the stream before this batch, a number or int64 with one element.
        capacity: N, number of slots.

    Returns:
        Slots, int64, [B]; -1 for an item that is dropped. Of several items with one slot, the last
        one stays, as in the sequential algorithm.
    """
    position = torch.arange(len(draws), device=draws.device) + num_seen
    slot = torch.minimum((draws * (position + 1)).long(), position)
    slot = torch.where(position < capacity, position, slot)
    return torch.where(slot < capacity, slot, -1)


def slot_owners(slots: torch.Tensor, capacity: int) -> torch.Tensor:
    """Returns the row that each slot holds after the batch, int64, [N]; -1 for untouched slots.

    Args:
        slots: Slot of each row or -1, int64, [B].
        capacity: N, number of slots.
    """
    rows = torch.arange(len(slots), device=slots.device)
    owner = torch.full((capacity + 1,), -1, device=slots.device)
    # Dropped rows share one slot past the end.
    owner.scatter_reduce_(0, torch.where(slots < 0, capacity, slots), rows, "amax")
    return owner[:capacity]


def may_read_values(store: torch.Tensor) -> bool:
    """Returns whether an update may depend on values, which on a GPU would be a host sync."""
    return store.is_cpu


def write_slots(
    store: torch.Tensor, rows: torch.Tensor, slots: torch.Tensor, owner: torch.Tensor
) -> None:
    """Writes each row that stays into its slot of `store`, in place.

    On a GPU, shapes are static and there is no host sync, so that a CUDA graph can capture it. On a
    CPU only the rows that stay are copied, which are few once many were seen.

    Args:
        store: The reservoir, [N, ...].
        rows: The batch, [B, ...].
        slots: Slot of each row or -1, int64, [B].
        owner: `slot_owners(slots, N)`.
    """
    if may_read_values(store):
        written = (owner >= 0).nonzero()[:, 0]
        store.index_copy_(0, written, rows[owner[written]].to(store.dtype))
        return
    slot = slots.clamp(min=0)
    row = owner[slot]
    has_owner = (row >= 0).view(-1, *[1] * (rows.dim() - 1))
    # Every row writes what its slot holds in the end, so rows with the same slot agree.
    store[slot] = torch.where(has_owner, rows[row.clamp(min=0)].to(store.dtype), store[slot])


def philox_draws(state: torch.Tensor, batch: int, stream: int) -> torch.Tensor:
    """Draws a number for each item of a batch, the same as the Triton kernel.

    Args:
        state: State of the generator, `philox.random_state`; it is not advanced.
        batch: B, number of items.
        stream: Distinguishes the reservoirs of one step, 0 to 65535.

    Returns:
        float64 in [0, 1), [B].
    """
    high, low, _, _ = philox.draw(state, batch, STREAM + stream)
    return philox.uniform(high, low)
