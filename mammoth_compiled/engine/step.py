"""The training step in Python: materialize the batch, call `observe`."""

from contextlib import nullcontext
from typing import NamedTuple, Self

import torch

from mammoth_compiled.data import LazyBatch
from mammoth_compiled.distributed import divided, part
from mammoth_compiled.engine.compute import Compute
from mammoth_compiled.engine.direct_calls import direct_calls_reported
from mammoth_compiled.engine.syncs import record_host_syncs
from mammoth_compiled.errors import DataError
from mammoth_compiled.models.base import ContinualModel

# Host syncs are recorded in this step of a task; by then most steps are captured.
SYNC_CHECK_STEP = 40


class StepResult(NamedTuple):
    """What a training step returns: its loss, a 0-d tensor or a float, and its images."""

    loss: torch.Tensor | float
    num_images: int


class EagerStep:
    """Runs the training steps of a task in Python.

    Use it as a context manager around the task.

    Args:
        model: The model.
        compute: How the run computes.
        reason: Why steps are not captured as a CUDA graph.

    Attributes:
        num_steps: Steps so far.
        replays: Those of them that replayed a captured graph.
        reason: Why steps run in Python, "" if they are captured.
        host_syncs: Source locations of the host syncs in step SYNC_CHECK_STEP; None before it.
    """

    def __init__(self, model: ContinualModel, compute: Compute, reason: str = "") -> None:
        self.model = model
        self.compute = compute
        self.reason = reason
        self.replays = 0
        self.host_syncs: list[str] | None = None
        self.num_steps = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begin_epoch(self) -> None:
        """Call it before each epoch."""
        self.model.counters.begin_epoch()

    def __call__(self, lazy: LazyBatch, epoch: int) -> StepResult:
        """Trains on one batch.

        Args:
            lazy: The batch, not materialized yet.
            epoch: Current epoch from 0.

        Raises:
            DataError: If the batch has fewer than three parts.
        """
        self.num_steps += 1
        if self.num_steps != SYNC_CHECK_STEP:
            result = self._step(lazy, epoch)
        else:
            with record_host_syncs(self.model.device) as self.host_syncs:
                result = self._step(lazy, epoch)
        self.model.counters.end_step()
        return result

    def _step(self, lazy: LazyBatch, epoch: int) -> StepResult:
        return self._run(lazy, epoch)

    def _run(self, lazy: LazyBatch, epoch: int) -> StepResult:
        batch = lazy.materialize(*lazy.tensors)
        if len(batch) < 3:
            dataset = self.model.dataset
            name = getattr(dataset, "NAME", type(dataset).__name__)
            raise DataError(
                f"dataset {name!r}: items of the training set must be (image, label, not augmented "
                f"image), but have {len(batch)} parts"
            )
        num_images = len(batch[1])
        is_first = self.num_steps == 1
        watched = direct_calls_reported(self.model, self.compute) if is_first else nullcontext()
        with self.compute.step(num_images), divided(num_images), watched:
            loss = self.model.meta_observe(*map(part, batch), epoch=epoch)
        return StepResult(loss, num_images)
