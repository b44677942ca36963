"""The batches of a task, whose position a checkpoint can hold."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch

from mammoth_compiled.data import LazyBatch, TaskLoader, ready_batch
from mammoth_compiled.device import random_state, set_random_state


class Batches:
    """Iterates over the batches of a task, epoch by epoch.

    A checkpoint within an epoch contains the random state at the beginning of the epoch, from which
    the loader draws the order of the images again, and the number of batches used. A loader may
    materialize several batches together; the random state before it last did so makes the
    remaining ones the same. A loader that draws random numbers elsewhere cannot be resumed exactly.

    Args:
        loader: A `TaskLoader`, or an iterable of materialized batches.
        can_save: Whether checkpoints within epochs are wanted; the random state is then compared
            before and after each batch.
    """

    def __init__(self, loader: Any, can_save: bool = False) -> None:
        self._loader = loader
        self._can_save = can_save
        self._first_random: dict[str, Any] = {}
        # Number of the batch, from 1, with which random numbers were drawn last, and the state of
        # torch's generator before that; None if that was the first batch.
        self._drawn: tuple[int, torch.Tensor] | None = None

    def begin_epoch(self, num_batches: int) -> Iterator[LazyBatch]:
        """Returns the first `num_batches` batches of a new epoch."""
        return islice(self._draw(), num_batches)

    def resume_epoch(self, num_batches: int, num_used: int) -> Iterator[LazyBatch]:
        """Returns the batches that an interrupted epoch has left, after `load_state_dict`.

        Args:
            num_batches: Batches of the epoch.
            num_used: Those used before the interruption.
        """
        set_random_state(self._first_random)
        batches = islice(self._draw(skip=num_used), num_batches)
        for _ in range(num_used):
            next(batches)
        return batches

    def _draw(self, skip: int = 0) -> Iterator[LazyBatch]:
        if self._can_save and not skip:
            self._first_random, self._drawn = random_state(), None
        loader = self._loader
        # A user's own loader yields batches that are materialized already.
        is_own = isinstance(loader, TaskLoader)
        batches = iter(loader.lazy_batches() if is_own else map(ready_batch, loader))
        number = 0
        while True:
            number += 1
            if number <= skip:
                if self._drawn is not None and self._drawn[0] == number:
                    torch.set_rng_state(self._drawn[1])
                before = None
            else:
                before = torch.get_rng_state() if self._can_save and number > 1 else None
            lazy = next(batches, None)
            if lazy is None:
                return
            if before is not None and not torch.equal(before, torch.get_rng_state()):
                self._drawn = (number, before)
            yield lazy

    def state_dict(self) -> dict[str, Any]:
        """Returns the position within the epoch, apart from the number of batches used."""
        return {
            "random": self._first_random,
            "drawn": None if self._drawn is None else list(self._drawn),
            "tensors": [tensor.cpu().clone() for tensor in self._tensors()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned; then call `resume_epoch`."""
        self._first_random = state["random"]
        self._drawn = None if state["drawn"] is None else tuple(state["drawn"])

    def load_tensors(self, state: dict[str, Any]) -> None:
        """Restores the tensors that batches update in place, after `resume_epoch`."""
        for tensor, saved in zip(self._tensors(), state["tensors"], strict=True):
            tensor.copy_(saved)

    def _tensors(self) -> list[torch.Tensor]:
        return self._loader.state_tensors() if isinstance(self._loader, TaskLoader) else []
