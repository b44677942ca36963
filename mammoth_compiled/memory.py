"""Refuses what cannot fit into memory before it is allocated.

Linux grants allocations that it cannot back and ends the process when they are used, so that no
error could be raised then.
"""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mammoth_compiled.errors import ConfigError


def total_memory(device: torch.device | None = None) -> int:
    """Returns the memory of a device in bytes.

    Args:
        device: A GPU, or None or the CPU for the memory of this machine or container.
    """
    if device is not None and device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):  # no such limit, or "max"
        machine = min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return machine


def check_fits(num_bytes: int, what: str, remedy: str, device: torch.device | None = None) -> None:
    """Checks that something fits into the memory of a device.

    Args:
        num_bytes: Its size.
        what: What it is, for the message.
        remedy: What to change, for the message.
        device: The device; None for the CPU.

    Raises:
        ConfigError: If it does not fit.

    Example:
        >>> check_fits(2**60, "the buffer", "Lower --buffer_size")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        mammoth_compiled.errors.ConfigError: the buffer needs at least 1,152,921,504.6 GB, but ...
    """
    limit = total_memory(device)
    if num_bytes > limit:
        raise ConfigError(
            f"{what} needs at least {num_bytes / 1e9:,.1f} GB, but {device or 'this machine'} has "
            f"{limit / 1e9:,.1f} GB. {remedy}"
        )


@contextlib.contextmanager
def limited_allocations(what: str, remedy: str) -> Iterator[None]:
    """Refuses to allocate, inside the block, more new tensors than the machine has memory.

    Counts tensors that are created by size, such as the parameters of modules, and never released.

    Args:
        what: What is built inside the block, for the message.
        remedy: What to change, for the message.

    Raises:
        ConfigError: At the allocation that exceeds the memory, before it is made.
    """
    with _Counter(what, remedy):
        yield


class _Counter(TorchDispatchMode):
    def __init__(self, what: str, remedy: str) -> None:
        super().__init__()
        self._message = what, remedy
        self._total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        first = func._schema.arguments[0].name if func._schema.arguments else ""
        if first == "size" and args and torch.device(kwargs.get("device") or "cpu").type == "cpu":
            itemsize = (kwargs.get("dtype") or torch.get_default_dtype()).itemsize
            if all(size >= 0 for size in args[0]):
                self._total += math.prod(args[0]) * itemsize
                check_fits(self._total, *self._message)
        return func(*args, **kwargs)
