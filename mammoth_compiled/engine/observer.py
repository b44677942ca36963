"""Observers of a run: progress, console, checkpoints, results, loggers."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType
from typing import Any, ClassVar, Protocol

import torch

from mammoth_compiled.config.schema import RunConfig
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.engine.compute import Compute
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.models.base import ContinualModel
from mammoth_compiled.results import Results
from mammoth_compiled.types import Evaluation


class Position(Protocol):
    """Where a run is within a task."""

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint within the task contains besides the model."""


@dataclass
class Run:
    """The state of a run, as observers see it.

    Attributes:
        model: The model.
        dataset: The dataset.
        config: All arguments.
        compute: How the run computes: device, AMP mode, compilation.
        results: Accuracies and timings of the tasks finished so far.
        num_tasks: Tasks of the run, up to `--stop_after`; 1 for joint training.
        first_task: The task that it started with, from 0; later than 0 if it was resumed.
        resumed_from: The checkpoint that it was resumed from.
        resume_within: The contents of that checkpoint if it was saved within a task, until the
            position in the task is restored.
        resume_messages: Checkpoints that were not used, and arguments that differ from it.
        other_checkpoints: Checkpoints with the names of this run's that are of another
            configuration.
        task: Current task, from 0.
        epoch: Current epoch of the task, from 0.
        step: Current step of the epoch, from 1.
        steps_per_epoch: Steps of each epoch of the task.
        task_sizes: Training images of each task that was loaded so far.
        num_steps: Steps of the task; None if it is not known in advance (`--fitting_mode`).
        num_epochs: Epochs of the task; likewise.
        stop_signal: Number of the signal that asked the run to stop after its current step.
        last_loss: Loss of the step read last.
        lr: Learning rate of the first parameter group at that step.
        saves_within: Whether checkpoints within tasks are wanted; set in `begin_run`.
        task_begin: If so, the checkpoint of the beginning of the task as bytes, which one within
            the task contains.
        position: What a checkpoint within the current task contains besides the model; None
            between tasks.
    """

    model: ContinualModel
    dataset: ContinualDataset
    config: RunConfig
    compute: Compute
    results: Results = field(default_factory=Results)
    num_tasks: int = 1
    first_task: int = 0
    resumed_from: Path | None = None
    resume_within: dict[str, Any] | None = None
    resume_messages: list[str] = field(default_factory=list)
    other_checkpoints: list[Path] = field(default_factory=list)
    task: int = 0
    epoch: int = 0
    step: int = 0
    steps_per_epoch: int = 0
    task_sizes: dict[int, int] = field(default_factory=dict)
    num_steps: int | None = None
    num_epochs: int | None = None
    stop_signal: int | None = None
    last_loss: float = float("nan")
    lr: float = float("nan")
    saves_within: bool = False
    task_begin: bytes = b""
    position: "Position | None" = None

    @property
    def task_step(self) -> int:
        """Steps of the current task so far."""
        return self.model.counters.task


class Observer:
    """Base class of observers; override the hooks that you need.

    An observer must not change the run and must not cause host syncs while a task is trained: read
    no tensor of the model in `end_step`, use the losses of `read_losses`.

    A run includes every subclass whose `from_config` returns an observer. So a module with a
    subclass adds an observer to the package, and a file with one to a run, by `--import`.

    Attributes:
        ORDER: Observers are notified from low to high numbers.
        COMMAND_LINE_ONLY: True to leave it out of runs that `train` starts from Python.

    Example:
        >>> from mammoth_compiled.engine.observer import Observer
        >>> class LossHistory(Observer):
        ...     def begin_run(self, run):
        ...         self.losses = []
        ...
        ...     def read_losses(self, run, losses):
        ...         self.losses += losses
    """

    ORDER: ClassVar[int] = 50
    COMMAND_LINE_ONLY: ClassVar[bool] = False

    @classmethod
    def from_config(cls, config: RunConfig) -> "Observer | None":
        """Returns an observer if the arguments of a run ask for it, else None (the default).

        Args:
            config: All arguments.
        """
        return None

    def begin_run(self, run: Run) -> None:
        """Called before the first task, after a checkpoint was loaded."""

    def begin_task(self, run: Run) -> None:
        """Called before each task, after `model.begin_task`."""

    def begin_epoch(self, run: Run) -> None:
        """Called before each epoch."""

    def end_step(self, run: Run, loss: torch.Tensor | float, num_images: int) -> None:
        """Called after each training step.

        Args:
            run: The run.
            loss: Its loss; a tensor on the device, whose reading is a host sync.
            num_images: Images of the stream in the step.
        """

    def read_losses(self, run: Run, losses: list[float]) -> None:
        """Called when losses were read: after every step on a CPU, every 50 steps on a GPU.

        Args:
            run: The run.
            losses: Losses of the steps since the last call, oldest first.
        """

    def end_evaluation(self, run: Run, evaluation: Evaluation) -> None:
        """Called after each evaluation within a task; see `--eval_every`.

        Args:
            run: The run; the last entry of `run.results.curve` says where in the task it is.
            evaluation: Measures on all tasks seen.
        """

    def end_epoch(self, run: Run) -> None:
        """Called after each epoch."""

    def end_task(self, run: Run, evaluation: Evaluation) -> None:
        """Called after each task and its evaluation, which `run.results` includes.

        Args:
            run: The run.
            evaluation: Accuracies on all tasks seen.
        """

    def keep_results(self, run: Run) -> None:
        """Called when the run ends, before any `end_run`: write what must not be lost, quickly.

        Signals wait meanwhile. After an interruption or an error, `run.results.interrupted` is
        True; after an error it is called only if a task was finished.
        """

    def end_run(self, run: Run) -> None:
        """Called when the run ends, as `keep_results`, even if an observer before failed."""

    def close(self, run: Run) -> None:
        """Called last, also after an error: release files and the terminal here.

        Observers are closed from high to low `ORDER`, so that they can use until then what one
        before them has opened.
        """


HOOKS = tuple(
    name
    for name, value in vars(Observer).items()
    if isinstance(value, FunctionType) and not name.startswith("_")
)


class Observers:
    """Notifies several observers in order.

    Args:
        observers: Each gets the calls of the hooks that it overrides.

    Raises:
        ConfigError: If one is not an `Observer`.
    """

    def __init__(self, observers: Iterable[Observer]) -> None:
        given = list(observers)
        for observer in given:
            if not isinstance(observer, Observer):
                raise ConfigError(
                    f"observers must be instances of Observer, got {type(observer).__name__}"
                )
        # Looked up once, so that hooks nobody overrides cost nothing in a step.
        self._hooks = {
            name: [
                getattr(observer, name)
                for observer in given
                if getattr(type(observer), name) is not getattr(Observer, name)
            ]
            for name in HOOKS
        }

    def notify(self, hook: str, run: Run, *args: Any) -> None:
        """Calls one hook of every observer."""
        for call in self._hooks[hook]:
            call(run, *args)

    def close(self, run: Run) -> list[BaseException]:
        """Closes every observer, the last one first, and returns what they raised."""
        return self._call_all(self._hooks["close"][::-1], run)

    def notify_all(self, hook: str, run: Run) -> list[BaseException]:
        """Calls one hook of every observer, also after one fails, and returns what they raised."""
        return self._call_all(self._hooks[hook], run)

    @staticmethod
    def _call_all(calls: Iterable[Callable[[Run], None]], run: Run) -> list[BaseException]:
        errors: list[BaseException] = []
        for call in calls:
            try:
                call(run)
            except BaseException as error:
                errors.append(error)
        return errors
