"""Checks that the schema of a checkpoint is composed of.

A check is a function of a value and the name of its field; it raises `CheckpointError`.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from mammoth_compiled.errors import CheckpointError

Check = Callable[[Any, str], None]


def fail(field: str, expected: str, value: Any = None) -> None:
    """Raises the error for a field.

    Raises:
        CheckpointError: Always.
    """
    got = "" if value is None else f", got {_describe(value)}"
    raise CheckpointError(f"{field} must be {expected}{got}")


def _describe(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a {value.dtype} tensor of shape {list(value.shape)}"
    text = repr(value)
    return text if len(text) <= 40 else type(value).__name__


def check_extent(value: Any, max_containers: int, max_depth: int) -> None:
    """Checks how many lists and dictionaries a value stands for, before each of them is checked.

    Args:
        value: The value; one that contains itself stands for endlessly many.
        max_containers: Largest number of lists, tuples and dictionaries; each counts as often as it
            is found.
        max_depth: Largest number that are nested.

    Raises:
        CheckpointError: If there are more.
    """
    waiting, count = [(value, 0)], 0
    while waiting:
        container, depth = waiting.pop()
        count += 1
        if count > max_containers or depth > max_depth:
            raise CheckpointError("contains too many lists and dictionaries, or itself")
        items = container.values() if isinstance(container, dict) else container
        waiting += [(i, depth + 1) for i in items if isinstance(i, (dict, list, tuple))]


def number(kinds: Any, expected: str, low: float = -math.inf, high: float = math.inf) -> Check:
    """Accepts numbers of some types from `low` to `high`, and NaN if there are no limits."""

    def check(value: Any, field: str) -> None:
        is_number = isinstance(value, kinds) and not isinstance(value, bool)
        limited = (low, high) != (-math.inf, math.inf)
        if not is_number or (limited and not low <= value <= high):
            fail(field, expected, value)

    return check


def instance(kind: type, expected: str) -> Check:
    """Accepts instances of a type."""

    def check(value: Any, field: str) -> None:
        if not isinstance(value, kind):
            fail(field, expected, type(value).__name__)

    return check


def tensor_of(*dtypes: torch.dtype, ndim: int | None = None) -> Check:
    """Accepts tensors of some dtypes, of all if none is given."""

    def check(value: Any, field: str) -> None:
        is_allowed = isinstance(value, torch.Tensor) and (not dtypes or value.dtype in dtypes)
        if not is_allowed or ndim not in (None, value.ndim):
            names = " or ".join(map(str, dtypes))
            fail(field, f"a {names} tensor" if names else "a tensor", value)

    return check


def list_of(item: Check, length: int | None = None) -> Check:
    """Accepts lists and tuples of valid entries, of any length if None."""

    def check(value: Any, field: str) -> None:
        if not isinstance(value, (list, tuple)) or length not in (None, len(value)):
            fail(field, "a list" if length is None else f"a list of {length} entries", value)
        for i, entry in enumerate(value):
            item(entry, f"{field}.{i}")

    return check


def tuple_of(*items: Check) -> Check:
    """Accepts lists and tuples with one entry per check."""

    def check(value: Any, field: str) -> None:
        if not isinstance(value, (list, tuple)) or len(value) != len(items):
            fail(field, f"a list of {len(items)} entries", value)
        for i, (item, entry) in enumerate(zip(items, value, strict=True)):
            item(entry, f"{field}.{i}")

    return check


def dict_of(item: Check, key: type | tuple[type, ...] = str) -> Check:
    """Accepts dictionaries of valid entries."""

    def check(value: Any, field: str) -> None:
        if not isinstance(value, dict):
            fail(field, "a dictionary", value)
        for name, entry in value.items():
            if not isinstance(name, key):
                fail(field, "a dictionary of named entries", name)
            item(entry, f"{field}.{name}")

    return check


def record(extra: Mapping[str, Check] | None = None, /, **items: Check) -> Check:
    """Accepts dictionaries with at least these entries, and with valid `extra` ones, if any."""

    def check(value: Any, field: str) -> None:
        if not isinstance(value, dict):
            fail(field or "the checkpoint", "a dictionary", value)
        prefix = f"{field}." if field else ""
        missing = [f"{prefix}{name}" for name in items if name not in value]
        if missing:
            raise CheckpointError(f"lacks {', '.join(missing)}")
        for name, item in {**items, **(extra or {})}.items():
            if name in value:
                item(value[name], f"{prefix}{name}")

    return check


def optional(item: Check) -> Check:
    """Accepts None, too."""

    def check(value: Any, field: str) -> None:
        if value is not None:
            item(value, field)

    return check


def plain(value: Any, field: str) -> None:
    """Accepts what an argument of a run can be: None, a number, a text, or a list of these."""
    if isinstance(value, (list, tuple)):
        for i, entry in enumerate(value):
            plain(entry, f"{field}.{i}")
    elif not isinstance(value, (bool, int, float, str, type(None))):
        fail(field, "a number, a text or a list of these", value)


def anything(value: Any, field: str) -> None:
    """Accepts everything; `torch.load(weights_only=True)` lets only plain data through."""
