"""Records host syncs: where the host waits for a GPU."""

import contextlib
import warnings
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def record_host_syncs(device: torch.device) -> Iterator[list[str]]:
    """Collects the source location of every host sync in the block; none on a CPU.

    Other warnings are shown when the block ends.
    """
    locations: list[str] = []
    if device.type != "cuda":
        yield locations
        return
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield locations
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    for warning in caught:
        text = str(warning.message)
        if "synchronizing CUDA operation" in text:
            locations.append(f"{warning.filename}:{warning.lineno}")
        elif "Synchronization debug mode is a prototype" not in text:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
