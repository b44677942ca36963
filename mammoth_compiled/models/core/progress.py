"""Where a model is in its run: tasks, classes and steps, by Mammoth's names."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

from torch import nn

from mammoth_compiled.datasets.base import ContinualDataset

Value = TypeVar("Value")


class derived(Generic[Value]):  # noqa: N801, used like `property`
    """A property that an instance may replace by an attribute of its own.

    User code may use the same name for a value that it counts itself.

    Args:
        function: Computes the value from the instance.
    """

    def __init__(self, function: Callable[[Any], Value]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> "derived[Value]": ...
    @overload
    def __get__(self, instance: object, owner: type) -> Value: ...
    def __get__(self, instance: object | None, owner: type) -> "Value | derived[Value]":
        return self if instance is None else self._function(instance)


class StepCounters:
    """Counts training steps; the engine does, since a captured step runs no Python.

    Attributes:
        task: Steps of the current task so far.
        epoch: Steps of the current epoch so far.
        were_read: Whether the model has read a counter since the flag was last cleared; a step
            that does cannot be captured as a CUDA graph.
    """

    def __init__(self) -> None:
        self.task = 0
        self.epoch = 0
        self.were_read = False

    def begin_task(self) -> None:
        """Starts to count a task."""
        self.task = self.epoch = 0

    def begin_epoch(self) -> None:
        """Starts to count an epoch."""
        self.epoch = 0

    def end_step(self) -> None:
        """Counts a step."""
        self.task += 1
        self.epoch += 1


class TaskProgress(nn.Module):
    """The part of `ContinualModel` that says where the run is; all of it may be read in any hook.

    Class counts are -1 before the first task. They do not change within a task, so a training step
    that reads them can be captured as a CUDA graph.

    Attributes:
        counters: Training steps; see `task_iteration`.
    """

    counters: StepCounters
    # The dataset of the run, which user code may replace in `self.dataset`.
    _stream: ContinualDataset
    _task_ended: bool

    def _follow(self, stream: ContinualDataset) -> None:
        self.counters = StepCounters()
        self._stream = stream
        self._task_ended = False

    @derived
    def current_task(self) -> int:
        """Index of the current task, from 0; 0 in joint training.

        As in Mammoth, it is incremented after `end_task`, so that `begin_eval` and `forward` in an
        evaluation see the number of finished tasks. `end_eval` sees the task that was evaluated.
        """
        task = 0 if self._stream.joint else max(self._stream.c_task, 0)
        return task + self._task_ended

    @derived
    def cpt(self) -> int | list[int] | tuple[int, ...]:
        """Number of classes per task, or one number for each task, as the dataset declares it."""
        return self._stream.N_CLASSES_PER_TASK

    @derived
    def classes_per_task(self) -> int | list[int] | tuple[int, ...]:
        """The same as `cpt`."""
        return self.cpt

    @derived
    def n_classes_current_task(self) -> int:
        """Number of classes of the current task."""
        first, end = self._offsets()
        return end - first if end >= 0 else -1

    @derived
    def n_past_classes(self) -> int:
        """Number of classes of earlier tasks."""
        return self._offsets()[0]

    @derived
    def n_seen_classes(self) -> int:
        """Number of classes of earlier tasks and the current one."""
        return self._offsets()[1]

    @derived
    def n_remaining_classes(self) -> int:
        """Number of classes of later tasks."""
        end = self._offsets()[1]
        return self._stream.N_CLASSES - end if end >= 0 else -1

    def _offsets(self) -> tuple[int, int]:
        return self._stream.get_offsets() if self._stream.c_task >= 0 else (-1, -1)

    @derived
    def N_TASKS(self) -> int:  # noqa: N802, Mammoth's name
        """Number of tasks."""
        return self._stream.N_TASKS

    @derived
    def N_CLASSES(self) -> int:  # noqa: N802, Mammoth's name
        """Number of classes of all tasks."""
        return self._stream.N_CLASSES

    @derived
    def SETTING(self) -> str:  # noqa: N802, Mammoth's name
        """The setting of the dataset, such as "class-il"."""
        return self._stream.SETTING

    @derived
    def task_iteration(self) -> int:
        """Training steps of the current task so far.

        A step that reads it runs in Python, since a CUDA graph would freeze the number. Count in a
        tensor, updated in place, to keep the step captured.
        """
        self.counters.were_read = True
        return self.counters.task

    @derived
    def epoch_iteration(self) -> int:
        """Training steps of the current epoch so far; see `task_iteration`."""
        self.counters.were_read = True
        return self.counters.epoch

    def get_offsets(self, task: int | None = None) -> tuple[int, int]:
        """Returns the (first, last + 1) class id of a task; None for the current one."""
        return self._stream.get_offsets(task)

    def get_debug_iters(self) -> int:
        """Returns the number of steps that a method's own loops should run in debug mode."""
        return 5
