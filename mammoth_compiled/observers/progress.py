"""ProgressBar: the current task on a terminal or in a notebook; ProgressLines: in a file."""

import math
import sys
import time
from importlib.util import find_spec
from typing import Any, ClassVar, TextIO

import torch

from mammoth_compiled.config.schema import RunConfig
from mammoth_compiled.console import print_above, say
from mammoth_compiled.engine.fitting import steps_left
from mammoth_compiled.engine.observer import Observer, Run
from mammoth_compiled.metrics import average
from mammoth_compiled.types import Evaluation

# Seconds between two updates. Drawing a bar takes a few milliseconds.
BAR_INTERVAL = 0.5
LINE_INTERVAL = 60.0
NOTEBOOK_INTERVAL = 10.0
# Columns of the terminal for the bar, its percentage and the spaces between.
MIN_BAR = 20


def is_interactive() -> bool:
    """Returns whether someone watches: a terminal on standard output or error, or a notebook."""
    streams = (sys.stdout, sys.stderr)
    return is_notebook() or any(stream is not None and stream.isatty() for stream in streams)


def is_kernel() -> bool:
    """Returns whether this process is the kernel of a notebook."""
    return "ipykernel" in sys.modules


def is_notebook() -> bool:
    """Returns whether this is a notebook that can redraw a bar, for which rich needs ipywidgets."""
    return is_kernel() and find_spec("ipywidgets") is not None


class Progress(Observer):
    """Measures the speed of a run, and shows it from time to time.

    Args:
        interval: Seconds between two updates.
    """

    ORDER: ClassVar[int] = 20

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._seconds = 0.0
        self._steps = self._images = 0

    def begin_task(self, run: Run) -> None:
        """Starts the clock."""
        self._new_images = self._new_steps = self._epoch = 0
        self._shown = time.perf_counter()

    def begin_epoch(self, run: Run) -> None:
        """Remembers the epoch."""
        self._epoch = run.epoch

    def end_step(self, run: Run, loss: torch.Tensor | float, num_images: int) -> None:
        """Counts the step, and shows the progress if it is time."""
        self._new_steps += 1
        self._new_images += num_images
        if time.perf_counter() - self._shown >= self._interval:
            self._measure()
            self.show(run)

    def _measure(self) -> None:
        now = time.perf_counter()
        self._seconds += now - self._shown
        self._shown = now
        self._steps += self._new_steps
        self._images += self._new_images
        self._new_steps = self._new_images = 0

    def values(self, run: Run) -> dict[str, Any]:
        """Returns the values to show, the most important first; last the model's `pbar_suffix`."""
        values = {}
        if math.isfinite(run.last_loss):  # NaN until a loss of the task was read
            values["loss"] = f"{run.last_loss:.4g}"
        if run.results.class_il and run.results.class_il[-1]:
            values["Class-IL"] = f"{100 * average(run.results.class_il[-1]):.1f}%"
        if self._seconds:
            if (steps := steps_left(run)) is not None:
                values["ETA"] = self._remaining(run, steps)
            values["images/s"] = f"{self._images / self._seconds:,.0f}"
        return {**values, "lr": f"{run.lr:.3g}", **run.model.pbar_suffix}

    def _remaining(self, run: Run, num_steps: int) -> str:
        """Returns the estimated time for the steps from the beginning of the task on, h:mm:ss."""
        steps = max(num_steps - run.task_step, 0)
        seconds = round(steps * self._seconds / max(self._steps, 1))
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"

    def show(self, run: Run) -> None:
        """Shows the progress.

        Args:
            run: The run.
        """
        raise NotImplementedError


class ProgressBar(Progress):
    """A bar for the current task with loss, learning rate, accuracy so far, images/s and ETA.

    It also shows the values of the model's `pbar_suffix`. Lines that are printed meanwhile go above
    the bar.

    Args:
        file: Where to draw; None for standard output, or standard error if only that is a terminal.
    """

    @classmethod
    def from_config(cls, config: RunConfig) -> Observer | None:
        """Returns one if someone watches."""
        return cls() if is_interactive() and not config.logging.quiet else None

    def __init__(self, file: TextIO | None = None) -> None:
        super().__init__(BAR_INTERVAL)
        self._file = file
        self._bar: Any = None

    def begin_task(self, run: Run) -> None:
        """Opens the bar of the task."""
        super().begin_task(run)
        # Imported here: it takes time, and runs without a terminal do not need it.
        from rich import console, progress, table

        on_output = self._file is None and not is_notebook() and sys.stdout.isatty()
        file = self._file or (None if is_notebook() or on_output else sys.stderr)
        terminal = console.Console(file=file, force_terminal=True if self._file else None)
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=None),
            progress.TaskProgressColumn(),
            progress.TextColumn(
                "{task.fields[values]}",
                markup=False,
                table_column=table.Column(no_wrap=True, overflow="ellipsis"),
            ),
            console=terminal,
            expand=True,
            transient=True,
            # A thread would take time from the steps: the bar is drawn between them.
            auto_refresh=False,
            redirect_stdout=on_output,
            redirect_stderr=on_output and sys.stderr.isatty(),
        )
        self._row = self._bar.add_task(**self._texts(run), total=run.num_steps)
        self._bar.start()
        if on_output:
            print_above(lambda text: terminal.print(text, markup=False, highlight=False))

    def _texts(self, run: Run) -> dict[str, str]:
        """Returns the texts beside the bar: as many values as there is room for."""
        epochs = "" if run.num_epochs is None else f"/{run.num_epochs}"
        task = f"Task {run.task + 1}/{run.num_tasks}, epoch {self._epoch + 1}{epochs}"
        room = self._bar.console.width - len(task) - MIN_BAR
        shown: list[str] = []
        for name, value in self.values(run).items():
            shown.append(f"{name}={value}")
            if len(" ".join(shown)) > room:
                shown.pop()
                break
        return {"description": task, "values": " ".join(shown)}

    def show(self, run: Run) -> None:
        """Draws the bar."""
        self._bar.update(self._row, completed=run.task_step, **self._texts(run), refresh=True)

    def end_task(self, run: Run, evaluation: Evaluation) -> None:
        """Removes the bar."""
        self.close(run)

    def close(self, run: Run) -> None:
        """Removes the bar, also after an error."""
        if self._bar is not None:
            print_above(None)
            self._bar.stop()
            self._bar = None


class ProgressLines(Progress):
    """Prints a line a minute if the output is not a terminal, for the log of a job.

    In a notebook that cannot redraw a bar, a line every ten seconds.
    """

    @classmethod
    def from_config(cls, config: RunConfig) -> Observer | None:
        """Returns one if nobody watches, or there is no bar to watch."""
        if is_interactive():
            return None
        return cls(NOTEBOOK_INTERVAL if is_kernel() else LINE_INTERVAL)

    def __init__(self, interval: float = LINE_INTERVAL) -> None:
        super().__init__(interval)

    def show(self, run: Run) -> None:
        """Prints a line."""
        values = ", ".join(f"{name} {value}" for name, value in self.values(run).items())
        say(f"task {run.task + 1}/{run.num_tasks}, epoch {self._epoch + 1}: {values}")
