"""The layout of a checkpoint: type, dtype and shape of every value that a run restores.

A checkpoint contains its layout. The schema cannot know what shape the state of a method or of an
optimizer must have; a value that was changed after the run had saved it is found all the same, and
before anything of the checkpoint is used.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from mammoth_compiled.errors import CheckpointError

# Entries of a checkpoint with the state of the run.
SECTIONS = ("net", "model", "random", "compute", "within")


def layout(content: Mapping[str, Any]) -> dict[str, str]:
    """Returns the type of every value by its field, with dtype and shape of tensors.

    Example:
        >>> import torch
        >>> layout({"net": {"fc.weight": torch.zeros(2, 3)}, "compute": {"compile": True}})
        {'net.fc.weight': 'torch.float32 [2, 3]', 'compute.compile': 'bool'}
    """
    return {
        field: kind
        for name in SECTIONS
        if name in content
        for field, kind in _described(content[name], name)
    }


def _described(value: Any, field: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, torch.Tensor):
        yield field, f"{value.dtype} {list(value.shape)}"
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _described(item, f"{field}.{name}")
    elif isinstance(value, (list, tuple)):
        if all(isinstance(item, (bool, int, float, str)) for item in value):
            yield field, f"{type(value).__name__} of {len(value)}"
        else:
            for i, item in enumerate(value):
                yield from _described(item, f"{field}.{i}")
    else:
        yield field, type(value).__name__


def check_layout(content: Mapping[str, Any]) -> None:
    """Checks a checkpoint against its layout; those of earlier releases have none.

    Raises:
        CheckpointError: If an entry is missing, was added, or has another type, dtype or shape;
            names it.
    """
    if "layout" not in content:
        return
    expected, found = content["layout"], layout(content)
    if missing := [field for field in expected if field not in found]:
        raise CheckpointError(f"lacks {', '.join(missing[:3])}, which the run saved")
    for field, kind in found.items():
        if field not in expected:
            raise CheckpointError(f"{field} was added after the run had saved it")
        if kind != expected[field]:
            raise CheckpointError(f"{field} must be {expected[field]}, as saved, got {kind}")
