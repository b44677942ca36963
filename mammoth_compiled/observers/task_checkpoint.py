"""WithinTaskCheckpoints: saves the run every few steps or minutes, and when it is stopped."""

import time
from typing import ClassVar

import torch

from mammoth_compiled.config.schema import RunConfig
from mammoth_compiled.config.values import parse_interval
from mammoth_compiled.console import say
from mammoth_compiled.engine.checkpoint_files import checkpoint_path, remove_within
from mammoth_compiled.engine.observer import Observer, Run
from mammoth_compiled.engine.resume import save_within
from mammoth_compiled.errors import MammothError
from mammoth_compiled.types import Evaluation


class WithinTaskCheckpoints(Observer):
    """Writes checkpoints within tasks, of which only the newest is kept.

    If one cannot be written, training continues. `CheckpointWriter` saves finished tasks.

    Args:
        steps: Training steps of a task between checkpoints; None for a time.
        seconds: Seconds between checkpoints.
    """

    ORDER: ClassVar[int] = 11  # after the checkpoint of a finished task

    @classmethod
    def from_config(cls, config: RunConfig) -> Observer | None:
        """Returns one for `--checkpoint_every`."""
        every = config.files.checkpoint_every
        return cls(*parse_interval(every)) if every else None

    def __init__(self, steps: int | None = None, seconds: float | None = None) -> None:
        self.steps = steps
        self.seconds = seconds
        self._saved = time.perf_counter()

    def begin_run(self, run: Run) -> None:
        """Asks for what checkpoints need, and starts to measure the time."""
        run.saves_within = True
        self._saved = time.perf_counter()

    def end_step(self, run: Run, loss: torch.Tensor | float, num_images: int) -> None:
        """Saves the run if it is time, or if it stops after this step."""
        if not (self._is_due(run) or run.stop_signal is not None):
            return
        try:
            saved = save_within(run)
        except MammothError as error:
            say(f"checkpoint: {error}")
        else:
            remove_within(run.config, run.task, run.task_step)
            say(f"checkpoint: {saved.path}")
        self._saved = time.perf_counter()

    def _is_due(self, run: Run) -> bool:
        if self.steps is not None:
            return run.task_step % self.steps == 0
        return time.perf_counter() - self._saved >= (self.seconds or 0)

    def end_task(self, run: Run, evaluation: Evaluation) -> None:
        """Removes the checkpoint within the task if there is one of the whole task."""
        if checkpoint_path(run.config, run.task + 1).exists():
            remove_within(run.config, run.task + 1)
