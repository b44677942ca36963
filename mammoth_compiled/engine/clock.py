"""TaskClock: the time of a task that goes into training, compilation and evaluation."""

import contextlib
import time
from collections.abc import Iterator
from typing import NamedTuple

from mammoth_compiled.compiler import counters


class TaskTimes(NamedTuple):
    """Seconds of a task: training, the part of it that is compilation, and evaluation."""

    train_s: float = 0.0
    compile_s: float = 0.0
    eval_s: float = 0.0


class TaskClock:
    """Measures a task from the construction of the object on.

    Time within `evaluation` counts as evaluation, all other time as training.
    """

    def __init__(self) -> None:
        self.resume(TaskTimes())

    def resume(self, times: TaskTimes) -> None:
        """Starts again, with the times of the task before it was interrupted."""
        self._before = times
        self._started = time.perf_counter()
        self._compiled = counters.read().seconds
        self._eval_s = self._eval_compile_s = 0.0

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        """Surrounds an evaluation."""
        started, compiled = time.perf_counter(), counters.read().seconds
        try:
            yield
        finally:
            self._eval_s += time.perf_counter() - started
            self._eval_compile_s += counters.read().seconds - compiled

    def read(self) -> TaskTimes:
        """Returns the times so far."""
        before = self._before
        compile_s = counters.read().seconds - self._compiled - self._eval_compile_s
        train_s = time.perf_counter() - self._started - self._eval_s
        return TaskTimes(
            before.train_s + train_s, before.compile_s + compile_s, before.eval_s + self._eval_s
        )
