"""ProgressBar: epochs and steps of the current task, on a terminal or in a notebook."""

import sys
from typing import Any, ClassVar

import torch
from tqdm.auto import tqdm

from mammoth_compiled.config.schema import RunConfig
from mammoth_compiled.engine.observer import Observer, Run
from mammoth_compiled.types import Evaluation


def is_interactive() -> bool:
    """Returns whether someone watches: a notebook, or a terminal on standard error."""
    return "ipykernel" in sys.modules or sys.stderr.isatty()


class ProgressBar(Observer):
    """Shows a bar with the loss read last, the learning rate and the model's `pbar_suffix`."""

    ORDER: ClassVar[int] = 20

    @classmethod
    def from_config(cls, config: RunConfig) -> Observer | None:
        """Returns one if someone watches."""
        return cls() if is_interactive() else None

    def __init__(self) -> None:
        self._bar: Any = None

    def begin_task(self, run: Run) -> None:
        """Opens the bar of the task."""
        total = run.steps_per_epoch * run.config.experiment.n_epochs
        self._bar = tqdm(total=total, mininterval=0.2, leave=False)

    def begin_epoch(self, run: Run) -> None:
        """Shows the epoch."""
        self._bar.set_description(f"Task {run.task + 1}/{run.num_tasks}, epoch {run.epoch + 1}")

    def end_step(self, run: Run, loss: torch.Tensor | float, num_images: int) -> None:
        """Advances the bar."""
        values = {**run.model.pbar_suffix, "loss": run.last_loss, "lr": run.lr}
        self._bar.set_postfix(values, refresh=False)
        self._bar.update()

    def end_task(self, run: Run, evaluation: Evaluation) -> None:
        """Removes the bar."""
        self.close(run)

    def close(self, run: Run) -> None:
        """Removes the bar, also after an error."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
