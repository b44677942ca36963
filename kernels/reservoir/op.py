"""Reservoir sampling: the operator and its implementations."""

from collections.abc import Sequence
from typing import Any

import torch

from mammoth_compiled.kernels.reservoir import reference
from mammoth_compiled.kernels.runtime.device import triton_why_not
from mammoth_compiled.kernels.runtime.implementations import Implementation, usable
from mammoth_compiled.kernels.runtime.operators import traced_operator


def update_reservoir(
    stores: Sequence[torch.Tensor],
    rows: Sequence[torch.Tensor],
    num_seen: torch.Tensor,
    state: torch.Tensor,
    *,
    index: torch.Tensor | None = None,
    by_index: Sequence[bool] | None = None,
    stream: int = 0,
) -> None:
    """Offers a batch of the stream to a reservoir on the device; one launch on a GPU.

    Neither the counter nor the state is changed, so that programs cannot race and a second call
    makes the same decisions. The caller runs `num_seen += B` and `philox.advance(state)`
    afterwards, in the same CUDA graph if there is one.

    Args:
        stores: Tensors of the reservoir, each [N, ...], contiguous or channels-last; changed in
            place.
        rows: Rows for each store, [B, ...], cast to its dtype; none may be part of a store.
        num_seen: Items of the stream before this batch, int64, one element, on the device.
        state: State of the generator, `philox.random_state`.
        index: Rows of the batch in a larger tensor, int64, [B], to write rows that are not gathered
            yet.
        by_index: For each of `rows` whether it is such a larger tensor, [K, ...], in the layout of
            its store; None means none is.
        stream: Distinguishes the reservoirs of one step, 0 to 65535.

    Raises:
        ValueError: If the tensors do not fit together.
    """
    flags = [False] * len(rows) if by_index is None else list(by_index)
    reservoir_op(list(stores), list(rows), flags, index, num_seen, state, stream)


@traced_operator("reservoir", mutates=("stores",))
def reservoir_op(
    stores: Sequence[torch.Tensor],
    rows: Sequence[torch.Tensor],
    by_index: Sequence[bool],
    index: torch.Tensor | None,
    num_seen: torch.Tensor,
    state: torch.Tensor,
    stream: int,
) -> None:
    """Computes `update_reservoir`."""
    _check(stores, rows, by_index, index)
    args = (stores, rows, by_index, index, num_seen, state, stream)
    (best, *_), _ = usable(IMPLEMENTATIONS, state.device, *args)
    best.function(*args)


@reservoir_op.register_fake
def _fake(*_: Any) -> None:
    return None


def storage_format(store: torch.Tensor) -> torch.memory_format:
    """Returns the memory format that rows need to be copied to a store element by element."""
    is_channels_last = store.dim() == 4 and not store.is_contiguous()
    return torch.channels_last if is_channels_last else torch.contiguous_format


def _triton(
    stores: Sequence[torch.Tensor],
    rows: Sequence[torch.Tensor],
    by_index: Sequence[bool],
    index: torch.Tensor | None,
    num_seen: torch.Tensor,
    state: torch.Tensor,
    stream: int,
) -> None:
    from mammoth_compiled.kernels.reservoir import triton

    rows = [
        source.contiguous(memory_format=storage_format(store))
        for store, source in zip(stores, rows, strict=True)
    ]
    batch = _num_items(rows, index)
    triton.update(stores, rows, by_index, index, num_seen, state, stream, batch)


def _reference(
    stores: Sequence[torch.Tensor],
    rows: Sequence[torch.Tensor],
    by_index: Sequence[bool],
    index: torch.Tensor | None,
    num_seen: torch.Tensor,
    state: torch.Tensor,
    stream: int,
) -> None:
    draws = reference.philox_draws(state, _num_items(rows, index), stream)
    slots = reference.slots_from_draws(draws, num_seen, len(stores[0]))
    owner = reference.slot_owners(slots, len(stores[0]))
    for store, source, flag in zip(stores, rows, by_index, strict=True):
        reference.write_slots(store, source[index] if flag else source, slots, owner)


def _triton_why_not(
    stores: Sequence[torch.Tensor],
    rows: Sequence[torch.Tensor],
    by_index: Sequence[bool],
    index: torch.Tensor | None,
    num_seen: torch.Tensor,
    state: torch.Tensor,
    stream: int,
) -> str:
    return triton_why_not(num_seen, state, *stores, *rows, any_dtype=True)


# Each takes the arguments of `reservoir_op`.
IMPLEMENTATIONS = (
    Implementation("triton", "one Triton kernel", _triton, "cuda", _triton_why_not),
    Implementation("reference", "torch", _reference),
)


def _num_items(rows: Sequence[torch.Tensor], index: torch.Tensor | None) -> int:
    return len(rows[0]) if index is None else len(index)


def _check(
    stores: Sequence[torch.Tensor],
    rows: Sequence[torch.Tensor],
    by_index: Sequence[bool],
    index: torch.Tensor | None,
) -> None:
    if not len(stores) == len(rows) == len(by_index) > 0:
        raise ValueError(
            f"reservoir: {len(stores)} stores, {len(rows)} rows and {len(by_index)} flags; "
            "each store needs one of each"
        )
    if any(by_index) and index is None:
        raise ValueError("reservoir: rows are read by index, but index is None")
    batch = _num_items(rows, index)
    for k, (store, source, flag) in enumerate(zip(stores, rows, by_index, strict=True)):
        if len(store) != len(stores[0]) or (not flag and len(source) != batch):
            raise ValueError(
                f"reservoir: store {k} has {len(store)} slots and {len(source)} rows; "
                f"expected {len(stores[0])} slots and {batch} rows"
            )
        if store.shape[1:] != source.shape[1:]:
            raise ValueError(
                f"reservoir: store {k} holds rows of shape {list(store.shape[1:])}, "
                f"got {list(source.shape[1:])}"
            )
        if not store.is_contiguous(memory_format=storage_format(store)):
            raise ValueError(
                f"reservoir: store {k} is neither contiguous nor channels-last; "
                f"its strides are {list(store.stride())}"
            )
        if flag and not source.is_contiguous(memory_format=storage_format(store)):
            raise ValueError(
                f"reservoir: rows {k} are read by index, so they must have the layout of store "
                f"{k}; their strides are {list(source.stride())} and {list(store.stride())}"
            )
