"""Checks the saved state of a buffer before any of it is used."""

from collections.abc import Mapping
from typing import Any

import torch


def check_saved(
    state: Mapping[str, Any], fresh: Mapping[str, torch.Tensor], num_rows: int, free: str
) -> None:
    """Checks the rows and the state of the policy.

    Args:
        state: What `Buffer.state_dict` returned.
        fresh: The state that the policy begins with.
        num_rows: Capacity, N.
        free: Name of an entry of `fresh` that a state saved on another device lacks or has.

    Raises:
        ValueError: If a tensor is missing or has another dtype or shape; says which.
    """
    data, policy_state = state["data"], state["policy_state"]
    for name, rows in data.items():
        if rows.ndim == 0 or len(rows) != num_rows:
            raise ValueError(f"data.{name} must have {num_rows} rows, got {list(rows.shape)}")
        if name.endswith("labels") and rows.dtype != torch.int64:
            raise ValueError(f"data.{name} must be torch.int64, got {rows.dtype}")
    if "examples" not in data and state["num_seen_examples"] and data:
        raise ValueError("data lacks examples")
    # Only a GPU has the state of its random number generator.
    free_names = {free, "random"}
    if missing := [n for n in fresh if n not in policy_state and n not in free_names]:
        raise ValueError(f"policy_state lacks {', '.join(missing)}")
    for name, value in policy_state.items():
        own = fresh.get(name)
        if own is None:
            continue
        if (value.shape, value.dtype) != (own.shape, own.dtype):
            raise ValueError(
                f"policy_state.{name} must be {own.dtype} {list(own.shape)}, got {value.dtype} "
                f"{list(value.shape)}"
            )
