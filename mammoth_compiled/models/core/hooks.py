"""The hooks of a model around tasks, epochs and evaluations, and what surrounds their calls."""

from collections.abc import Sequence
from typing import ClassVar

from torch.optim.lr_scheduler import LRScheduler

from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.models.core.progress import TaskProgress
from mammoth_compiled.types import Evaluation


class TaskHooks(TaskProgress):
    """The part of `ContinualModel` that the training loop calls between training steps.

    The loop calls the `meta_` method of a hook, which calls the hook; a model overrides the hook.

    Attributes:
        RESET_OPTIMIZER: True builds a new optimizer before each task, as Mammoth does.
        custom_scheduler: A learning rate scheduler of the optimizer, which replaces
            `--lr_scheduler`. Assign it in `begin_task`; the engine steps it after each epoch, or
            each training step with `--scheduler_mode iter`, unless the model has done so itself.
    """

    RESET_OPTIMIZER: ClassVar[bool] = False

    custom_scheduler: LRScheduler | None = None

    def begin_task(self, dataset: ContinualDataset) -> None:
        """Called before each task."""

    def end_task(self, dataset: ContinualDataset) -> None:
        """Called after each task, before its evaluation."""

    def begin_epoch(self, epoch: int, dataset: ContinualDataset) -> None:
        """Called before each epoch, counted from 0."""

    def end_epoch(self, epoch: int, dataset: ContinualDataset) -> None:
        """Called after each epoch."""

    def begin_eval(self, dataset: ContinualDataset) -> None:
        """Called before the evaluation that follows a task."""

    def end_eval(self, dataset: ContinualDataset, accs: tuple[list[float], list[float]]) -> None:
        """Called after the evaluation that follows a task.

        Args:
            dataset: The dataset.
            accs: Class-IL and task-IL accuracies of each task seen so far, percent.
        """

    def epoch_sizes(self, sizes: Sequence[int]) -> list[int]:
        """Returns how many images an epoch of each task trains on; by default those of the task.

        Estimates are made from it: of the time left, by `--dry_run`, and by `--compile auto`. A
        model that adds stored images to the training set, or trains on them alone, overrides it.

        Args:
            sizes: Training images of each task.
        """
        return list(sizes)

    def reset_optimizer(self) -> None:
        """Replaces the optimizer by a new one."""
        raise NotImplementedError

    def meta_begin_task(self, dataset: ContinualDataset) -> None:
        """Starts a task: counters, optimizer, `begin_task`."""
        self._task_ended = False
        self.counters.begin_task()
        if self.RESET_OPTIMIZER:
            self.reset_optimizer()
        self.begin_task(dataset)

    def meta_end_task(self, dataset: ContinualDataset) -> None:
        """Calls `end_task` and counts the task as finished."""
        self.end_task(dataset)
        self._task_ended = True

    def meta_begin_epoch(self, epoch: int, dataset: ContinualDataset) -> None:
        """Starts an epoch: counters, `begin_epoch`."""
        self.counters.begin_epoch()
        self.begin_epoch(epoch, dataset)

    def meta_end_epoch(self, epoch: int, dataset: ContinualDataset) -> None:
        """Calls `end_epoch`."""
        self.end_epoch(epoch, dataset)

    def meta_begin_eval(self, dataset: ContinualDataset) -> None:
        """Calls `begin_eval`."""
        self.begin_eval(dataset)

    def meta_end_eval(self, dataset: ContinualDataset, evaluation: Evaluation) -> None:
        """Calls `end_eval` with the accuracies of an evaluation."""
        class_il, task_il = (
            [100 * a for a in v] for v in (evaluation.class_il, evaluation.task_il)
        )
        # As in Mammoth, the hook belongs to the task that was evaluated.
        ended, self._task_ended = self._task_ended, False
        try:
            self.end_eval(dataset, (class_il, task_il))
        finally:
            self._task_ended = ended
