"""What a captured step reads and writes besides the model: its batch and its loss, on the device.

A replay is then one call: the graph finds its batch by a position that it advances itself, and
appends its loss to a ring. Steps in Python before the capture work on the same memory.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import torch

from mammoth_compiled.data import LazyBatch, Window
from mammoth_compiled.kernels.runtime.deferred import DeferredCounters

# Losses that stay readable: more than most tasks have steps.
NUM_LOSSES = 2**16
# Views of the ring that are made together.
_CHUNK = 1024


class EpochOrder:
    """The order of an epoch and a position in it, at fixed addresses.

    The host knows the position as well, so that it writes to the device only where steps outside of
    the graph, or a resumed run, skipped some batches.

    Args:
        window: The first batch.

    Attributes:
        order: Indices of items, int64, [n].
        position: Where the next batch begins, int64, [1].
    """

    def __init__(self, window: Window) -> None:
        self.order = window.order.clone()
        self.position = torch.zeros(1, dtype=torch.int64, device=window.order.device)
        self._copied, self._position = window.order, 0

    def move_to(self, window: Window) -> None:
        """Makes the next step begin at a batch."""
        if window.order is not self._copied:
            self.order.copy_(window.order)
            self._copied = window.order
        if window.start != self._position:
            self.position.fill_(window.start)
            self._position = window.start

    def skip(self, size: int) -> None:
        """Notes that a step has advanced the position on the device."""
        self._position += size


class StaticBatch:
    """A batch at fixed addresses: a window of the order of the epoch, or copies of its tensors.

    Args:
        lazy: A batch of this kind.
        order: Shared by the full and the smaller last batches; None without windows.

    Attributes:
        lazy: What a step materializes.
        size: Number of images, B.
    """

    def __init__(self, lazy: LazyBatch, order: EpochOrder | None) -> None:
        self.size = len(lazy.tensors[0])
        self._order = order
        if order is None or lazy.window is None:
            self.lazy = LazyBatch(lazy.materialize, tuple(t.clone() for t in lazy.tensors))
        else:
            gather, size = lazy.window.gather, self.size

            def materialize(
                order: torch.Tensor, position: torch.Tensor
            ) -> tuple[torch.Tensor, ...]:
                return gather(order, position, size)

            self.lazy = LazyBatch(materialize, (order.order, order.position))

    def fill(self, lazy: LazyBatch) -> None:
        """Takes the batch of the next step."""
        if self._order is not None and lazy.window is not None:
            self._order.move_to(lazy.window)
            return
        for tensor, value in zip(self.lazy.tensors, lazy.tensors, strict=True):
            tensor.copy_(value, non_blocking=True)

    def advance(self, deferred: DeferredCounters) -> None:
        """Adds to what a step changes on the device at its end."""
        if self._order is not None:
            deferred.add(self._order.position, self.size)

    def end_step(self) -> None:
        """Notes that a step has been launched."""
        if self._order is not None:
            self._order.skip(self.size)


@dataclass(frozen=True)
class CapturedGraph:
    """A captured step.

    Attributes:
        key: Code and shapes that it was captured for.
        storages: Tensors it reads or writes apart from `batch`; see `CapturedStep`.
        batch: The batch it reads.
        replay: Launches it.
        growth: Examples that a step offers to each buffer.
    """

    key: tuple[Any, ...]
    storages: list[Any]
    batch: StaticBatch
    replay: Callable[[], None]
    growth: list[int]


@dataclass
class RaggedBatches:
    """The smaller last batches of epochs.

    Attributes:
        key: As of `CapturedGraph`.
        steps: Steps so far, up to those of the warm-up; -1 if they cannot be captured.
        batch: The batch of these steps and of the graph.
        graph: Their own graph.
    """

    key: tuple[Any, ...] | None = None
    steps: int = 0
    batch: StaticBatch | None = None
    graph: CapturedGraph | None = None


class LossRing:
    """Memory for the losses of the last steps.

    A loss that is still held when its memory is needed again moves to memory of its own; views that
    were made of it do not.

    Args:
        dtype: Dtype of the losses.
        device: Where they are.
        size: Number of losses, R.

    Attributes:
        values: [R].
        slot: Where the next step writes, int64, [1].
    """

    def __init__(self, dtype: torch.dtype, device: torch.device, size: int = NUM_LOSSES) -> None:
        self.values = torch.zeros(size, dtype=dtype, device=device)
        self.slot = torch.zeros(1, dtype=torch.int64, device=device)
        self._next = 0
        self._views: list[torch.Tensor] = []
        self._held: WeakValueDictionary[int, torch.Tensor] = WeakValueDictionary()

    def take(self) -> torch.Tensor:
        """Returns the tensor that the next step fills, 0-d; call it before that step."""
        if not self._views:
            self._next %= len(self.values)
            self._move_held(self._next)
            chunk = self.values[self._next : self._next + _CHUNK]
            self._views = list(chunk.unbind())[::-1]
        loss = self._views.pop()
        self._held[self._next] = loss
        self._next += 1
        return loss

    def _move_held(self, first: int) -> None:
        """Moves losses that are still held out of a chunk that steps are about to overwrite."""
        held = [k for k in list(self._held) if first <= k < first + _CHUNK]
        copies = self.values[first : first + _CHUNK].clone() if held else self.values
        for k in held:
            if (loss := self._held.pop(k, None)) is not None:
                loss.data = copies[k - first]
