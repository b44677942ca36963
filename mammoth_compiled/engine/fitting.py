"""How long a task is trained: a number of epochs, steps or minutes, or with early stopping."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from mammoth_compiled.checkpoint import load_copy
from mammoth_compiled.config.schema import RunConfig
from mammoth_compiled.device import kept_random_state
from mammoth_compiled.engine.clock import TaskClock
from mammoth_compiled.engine.evaluate import evaluate_task
from mammoth_compiled.engine.observer import Run
from mammoth_compiled.models.base import ContinualModel

# An improvement of the validation loss or accuracy is larger than this.
MIN_IMPROVEMENT = 1e-6
# Assumed epochs per task where they are not known in advance, for the decision to compile.
UNKNOWN_EPOCHS = 10
# Steps of an epoch with `--debug_mode`.
DEBUG_BATCHES = 6


class Fitting:
    """Trains a task for `--n_epochs`, and is the base of the other modes.

    Args:
        run: The run, in its current task.
        clock: The time of the task.
    """

    def __init__(self, run: Run, clock: TaskClock) -> None:
        self.run = run
        self.clock = clock
        self.training = run.config.training

    def epochs(self, first: int = 0) -> Iterator[int]:
        """Yields the epochs to train, from `first` on."""
        epoch = first
        while self.has_epoch(epoch):
            yield epoch
            epoch += 1

    def has_epoch(self, epoch: int) -> bool:
        """Returns whether an epoch, counted from 0, is to be trained."""
        return epoch < self.run.config.experiment.n_epochs

    def is_over(self) -> bool:
        """Returns whether the task ends before its next step."""
        return False

    def end_epoch(self) -> None:
        """Call it after each epoch."""

    def end_task(self) -> None:
        """Call it after the last epoch."""

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint within the task needs."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""


class StepFitting(Fitting):
    """Trains a task for `--n_iters` steps."""

    def has_epoch(self, epoch: int) -> bool:
        """Returns whether there are steps left."""
        return not self.is_over()

    def is_over(self) -> bool:
        """Returns whether all steps are done."""
        return self.run.task_step >= (self.training.n_iters or 0)


class TimeFitting(Fitting):
    """Trains a task for `--n_minutes`, compilation included."""

    def has_epoch(self, epoch: int) -> bool:
        """Returns whether there is time left."""
        return not self.is_over()

    def is_over(self) -> bool:
        """Returns whether the time is over."""
        return self.clock.read().train_s >= 60 * (self.training.n_minutes or 0)


class EarlyStopping(Fitting):
    """Trains a task until the validation loss or accuracy of the task stops improving.

    The task then ends with the weights of the best epoch. What a method keeps besides its weights,
    such as a replay buffer, is that of the last epoch.
    """

    def __init__(self, run: Run, clock: TaskClock) -> None:
        super().__init__(run, clock)
        self._best = -math.inf
        self._epochs_since = 0
        self._weights: dict[str, Any] = {}

    def has_epoch(self, epoch: int) -> bool:
        """Returns whether the last improvement is recent enough."""
        return self._epochs_since < self.training.early_stopping_patience

    def end_epoch(self) -> None:
        """Evaluates the task and keeps the weights if they are the best so far."""
        with self.clock.evaluation(), kept_random_state():
            loss, accuracy = evaluate_task(self.run.model, self.run.dataset)
        value = -loss if self.training.early_stopping_metric == "loss" else accuracy
        if value > self._best + MIN_IMPROVEMENT:
            self._best, self._epochs_since = value, 0
            state = self.run.model.net.state_dict()
            self._weights = {
                name: v.clone() if isinstance(v, torch.Tensor) else v for name, v in state.items()
            }
        else:
            self._epochs_since += 1

    def end_task(self) -> None:
        """Takes the weights of the best epoch."""
        if self._weights:
            load_copy(self.run.model.net, self._weights)

    def state_dict(self) -> dict[str, Any]:
        """Returns the best value, the epochs since and the best weights."""
        return {"best": self._best, "since": self._epochs_since, "weights": self._weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._best, self._epochs_since = state["best"], state["since"]
        self._weights = state["weights"]


FITTING_MODES = {
    "epochs": Fitting,
    "iters": StepFitting,
    "time": TimeFitting,
    "early_stopping": EarlyStopping,
}


def num_epochs(config: RunConfig, steps_per_epoch: int) -> int | None:
    """Returns the number of epochs of a task; None if it is not known in advance.

    Args:
        config: All arguments.
        steps_per_epoch: Training steps of an epoch.
    """
    mode = config.training.fitting_mode
    if mode == "epochs":
        return config.experiment.n_epochs
    if mode == "iters":
        return -(-(config.training.n_iters or 0) // max(steps_per_epoch, 1))
    return None


def num_steps(config: RunConfig, steps_per_epoch: int) -> int | None:
    """Returns the number of training steps of a task; None if it is not known in advance."""
    if config.training.fitting_mode == "iters":
        return config.training.n_iters
    epochs = num_epochs(config, steps_per_epoch)
    return None if epochs is None else epochs * steps_per_epoch


def steps_of_tasks(
    model: ContinualModel, config: RunConfig, sizes: Sequence[int]
) -> list[int | None]:
    """Returns the training steps of each task; None where the number is not known in advance.

    Args:
        model: The model, which may train on more or fewer images than a task has.
        config: All arguments.
        sizes: Training images of each task.
    """
    batch_size = config.experiment.batch_size
    rounded = math.floor if config.training.drop_last else math.ceil
    per_epoch = [rounded(size / batch_size) for size in model.epoch_sizes(sizes)]
    if config.experiment.debug_mode:
        per_epoch = [min(count, DEBUG_BATCHES) for count in per_epoch]
    return [num_steps(config, count) for count in per_epoch]


def steps_left(run: Run) -> int | None:
    """Returns the steps from the beginning of the current task to the end of the run.

    A task whose images have not been loaded is taken to be as large as the current one. None if the
    number is not known in advance.
    """
    size = run.task_sizes[run.task]
    sizes = [run.task_sizes.get(task, size) for task in range(run.num_tasks)]
    steps = steps_of_tasks(run.model, run.config, sizes)[run.task :]
    known = [count for count in steps if count is not None]
    return sum(known) if len(known) == len(steps) else None
