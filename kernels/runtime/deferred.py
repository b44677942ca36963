"""Counters on the device that advance together at the end of a training step.

Each would take a launch of its own: the random state of the augmentation, that of the reservoir,
the number of samples seen. Within `defer_counters` they are collected, so that one kernel advances
all of them (see `kernels.step_end`).
"""

import contextlib
import threading
from collections.abc import Iterator

import torch


class DeferredCounters:
    """Numbers to add to counters later.

    Example:
        >>> import torch
        >>> seen = torch.zeros((), dtype=torch.int64)
        >>> with defer_counters() as deferred:
        ...     advance_counters([seen], [32])
        ...     before = int(seen)
        ...     deferred.apply()
        >>> before, int(seen)
        (0, 32)
    """

    def __init__(self) -> None:
        self._counters: dict[int, tuple[torch.Tensor, int]] = {}

    def add(self, counter: torch.Tensor, amount: int) -> None:
        """Adds to what is to be added to a counter, int64 with one element."""
        _, before = self._counters.get(counter.data_ptr(), (counter, 0))
        self._counters[counter.data_ptr()] = (counter, before + amount)

    def holds(self, counter: torch.Tensor) -> bool:
        """Returns whether anything is still to be added to a counter."""
        return counter.data_ptr() in self._counters

    def take(self) -> tuple[list[torch.Tensor], list[int]]:
        """Returns counters and numbers and forgets them."""
        taken, self._counters = list(self._counters.values()), {}
        return [counter for counter, _ in taken], [amount for _, amount in taken]

    def apply(self) -> None:
        """Adds all numbers now, in one launch."""
        _add(*self.take())


class _Current(threading.local):
    deferred: DeferredCounters | None = None


_current = _Current()


@contextlib.contextmanager
def defer_counters() -> Iterator[DeferredCounters]:
    """Makes `advance_counters` collect in this thread; what is left at the end is dropped."""
    before, _current.deferred = _current.deferred, DeferredCounters()
    try:
        yield _current.deferred
    finally:
        _current.deferred = before


def advance_counters(counters: list[torch.Tensor], amounts: list[int]) -> None:
    """Adds numbers to counters, in one launch or, within `defer_counters`, at its end.

    Args:
        counters: int64, one element each.
        amounts: What to add to each.
    """
    if _current.deferred is None:
        _add(counters, amounts)
        return
    for counter, amount in zip(counters, amounts, strict=True):
        _current.deferred.add(counter, amount)


def settle_counters(*counters: torch.Tensor) -> None:
    """Makes counters current before they are read: adds what was deferred, if anything was."""
    deferred = _current.deferred
    if deferred is not None and any(map(deferred.holds, counters)):
        deferred.apply()


def _add(counters: list[torch.Tensor], amounts: list[int]) -> None:
    if counters:
        torch._foreach_add_(counters, amounts)
