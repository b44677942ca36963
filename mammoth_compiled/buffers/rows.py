"""The rows of a buffer: checks against the tensors that it holds, and new tensors for them."""

from collections.abc import Mapping
from typing import Any

import torch

# The order is the order in which `get_data` returns them.
ATTRIBUTES = ("examples", "labels", "logits", "task_labels", "true_labels")


def to_rows(values: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Returns the values that are not None as tensors without gradient."""
    return {n: torch.as_tensor(v).detach() for n, v in values.items() if v is not None}


def complete_rows(
    rows: Mapping[str, torch.Tensor], held: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Returns rows without those beyond the examples, and zeros for attributes that are missing.

    Args:
        rows: New rows by attribute, [B, ...] for the examples, [B or more, ...] for others.
        held: The tensors of the buffer by attribute, [N, ...].

    Example:
        >>> import torch
        >>> rows = {"examples": torch.ones(2, 4), "labels": torch.arange(5)}
        >>> complete_rows(rows, {"task_labels": torch.ones(9)})
        {'examples': tensor([[1., 1., 1., 1.],
                [1., 1., 1., 1.]]), 'labels': tensor([0, 1]), 'task_labels': tensor([0., 0.])}
    """
    count = len(rows["examples"])
    missing = {
        name: store.new_zeros((count, *store.shape[1:]))
        for name, store in held.items()
        if name not in rows
    }
    return {**{name: value[:count] for name, value in rows.items()}, **missing}


def check_rows(
    rows: Mapping[str, torch.Tensor],
    held: Mapping[str, torch.Tensor],
    is_empty: bool,
    columns: frozenset[str] = frozenset(),
) -> None:
    """Checks new rows against each other and against the tensors of the buffer.

    Args:
        rows: New rows by attribute, [B, ...].
        held: The tensors of the buffer by attribute, [N, ...].
        is_empty: True if the buffer holds no sample: its tensors may then be replaced, apart from
            those of `columns`.
        columns: Names that `Buffer.add_column` added.

    Raises:
        ValueError: If the number of rows differs between attributes, an attribute that the buffer
            holds is missing, or one is new or has another shape.
    """
    batch_size = len(rows["examples"])
    for name, value in rows.items():
        if len(value) != batch_size:
            raise ValueError(
                f"add_data: got {batch_size} examples but {len(value)} {name}; a buffer built with "
                "lenient=True ignores surplus rows"
            )
        if name not in ATTRIBUTES and name not in columns:
            raise ValueError(
                f"add_data: the buffer has no {name}: add it first with add_column({name!r}, shape)"
            )
    if is_empty:
        held = {name: store for name, store in held.items() if name in columns}
    missing = [name for name in held if name not in rows]
    if missing:
        raise ValueError(
            f"add_data: missing {', '.join(missing)}, which the buffer stores for every sample. "
            "Pass them, or call reset() to start with an empty buffer"
        )
    for name, value in rows.items():
        store = held.get(name)
        if store is None and is_empty:
            continue
        if store is None:
            raise ValueError(
                f"add_data: got {name}, but the buffer stores only {', '.join(held)}. Leave them "
                "out, or call reset() to start with an empty buffer"
            )
        if store.shape[1:] != value.shape[1:]:
            shape = ", ".join(["B", *map(str, store.shape[1:])])
            raise ValueError(
                f"add_data: {name} must have shape [{shape}] like the stored ones, got "
                f"{list(value.shape)}. Call reset() to start with an empty buffer"
            )


def check_labels(labels: torch.Tensor, num_classes: int) -> None:
    """Checks class ids on the device, without a host sync.

    Args:
        labels: Class ids, int64, [B].
        num_classes: K.

    Raises:
        RuntimeError: If a label is not in 0 to K - 1.
    """
    is_known = (labels >= 0) & (labels < num_classes)
    torch._assert_async(is_known.all(), f"add_data: labels must be 0 to {num_classes - 1}")


def allocate(name: str, rows: torch.Tensor, capacity: int, device: torch.device) -> torch.Tensor:
    """Returns a zeroed tensor for N rows of one attribute.

    Args:
        name: The attribute: labels of every kind are stored as int64, bytes as they are, the rest
            as float32.
        rows: Rows to be stored, [B, ...].
        capacity: N.
        device: Device of the buffer.

    Returns:
        Shape [N, ...].

    Example:
        >>> import torch
        >>> allocate("task_labels", torch.tensor([0.0, 1.0]), 3, torch.device("cpu"))
        tensor([0, 0, 0])
    """
    if name.endswith("labels"):
        dtype = torch.int64
    else:
        dtype = torch.uint8 if rows.dtype == torch.uint8 else torch.float32
    return torch.zeros((capacity, *rows.shape[1:]), dtype=dtype, device=device)
