"""Counts how often the host waits for a GPU."""

import contextlib
import warnings
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def counting(device: torch.device) -> Iterator[list[str]]:
    """Collects where the host waits for a GPU, one line each; on a CPU it never does.

    Other warnings are shown when the block is left.
    """
    waits: list[str] = []
    if device.type != "cuda":
        yield waits
        return
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    for warning in said:
        if "synchronizing CUDA operation" in str(warning.message):
            waits.append(f"{warning.filename}:{warning.lineno}")
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
