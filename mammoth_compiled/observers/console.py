"""Console: one line for each event of a run."""

import io
import shlex
import sys
import time
from typing import ClassVar

from mammoth_compiled.config.schema import RunConfig
from mammoth_compiled.console import say
from mammoth_compiled.engine.observer import Observer, Run
from mammoth_compiled.engine.run_folder import REPORT, folder_of
from mammoth_compiled.metrics import average, forgetting
from mammoth_compiled.results import Results
from mammoth_compiled.types import Evaluation

# Columns of the terminal for all but the accuracies on single tasks.
AVERAGES_WIDTH = 28


class Console(Observer):
    """Prints what is decided, the accuracy after each task, and how steps were computed."""

    ORDER: ClassVar[int] = 0

    @classmethod
    def from_config(cls, config: RunConfig) -> Observer | None:
        """Returns one for every run."""
        return cls()

    def begin_run(self, run: Run) -> None:
        """Prints what a resumed run continues from."""
        for message in run.resume_messages:
            say(f"checkpoint: {message}")
        if run.resumed_from is None:
            return
        lr = run.model.opt.param_groups[0]["lr"]
        if lr != run.config.optimizer.lr:
            say(f"checkpoint: resumes with lr {lr:g}, not {run.config.optimizer.lr:g}")
        say(f"checkpoint: {run.resumed_from} loaded, {run.first_task} tasks done")

    def begin_task(self, run: Run) -> None:
        """Prints the compile decision before the first task."""
        if run.task == run.first_task:
            say(f"compile: {'on' if run.compute.compile else 'off'} ({run.compute.reason})")

    def end_task(self, run: Run, evaluation: Evaluation) -> None:
        """Prints the average accuracies."""
        say(
            f"Accuracy after task {run.task + 1}: "
            f"[Class-IL] {100 * average(evaluation.class_il):.2f} %  "
            f"[Task-IL] {100 * average(evaluation.task_il):.2f} %  "
            f"(test loss {evaluation.loss:.4f})"
        )

    def end_run(self, run: Run) -> None:
        """Prints what the compiler did, and on a GPU how steps ran."""
        notes = run.results.notes
        if run.results.interrupted:
            say("Training interrupted: the results contain the tasks finished so far")
            return
        if compiler := notes.get("compiler"):
            say(
                f"compile: {compiler['graphs']} graphs, {compiler['seconds']:.1f} s, "
                f"{compiler['graphs_after_first_task']} recompilations after task "
                f"{run.first_task + 1}, "
                f"{compiler['graph_breaks']} graph breaks"
            )
            for guard in compiler.get("guards_after_first_task", ()):
                say(f"compile: recompiled because this guard failed: {guard}")
        if step := notes.get("step"):
            captured = f"CUDA graph: {step['replayed']:,} of {step['total']:,} steps replayed"
            if step["reason"]:
                captured += f" (others ran in Python: {step['reason']})"
            say(f"{captured}, {step['host_syncs_per_step']} host syncs per step")


def _length(config: RunConfig) -> str:
    """Returns how long a task is trained, in words."""
    training = config.training
    return {
        "epochs": _count(config.experiment.n_epochs, "epoch"),
        "iters": _count(training.n_iters, "step"),
        "time": _count(training.n_minutes, "minute"),
        "early_stopping": "early stopping",
    }[training.fitting_mode]


def _count(number: float | None, unit: str) -> str:
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"


class RunSummary(Observer):
    """Prints what is run in one line at the beginning; where time and files went at the end.

    The total time counts from the construction of the observer. That of a resumed run includes the
    training and the evaluation of the tasks done before.
    """

    ORDER: ClassVar[int] = 90
    COMMAND_LINE_ONLY: ClassVar[bool] = True

    @classmethod
    def from_config(cls, config: RunConfig) -> Observer | None:
        """Returns one for every run from the command line."""
        return cls()

    def __init__(self) -> None:
        self._started = time.perf_counter()

    def begin_run(self, run: Run) -> None:
        """Prints model, dataset, backbone, device and the most important arguments."""
        done = run.results
        within = {} if run.resume_within is None else run.resume_within["within"]
        train_s, _, eval_s = within.get("times", (0.0, 0.0, 0.0))
        self._before = sum(done.train_s) + sum(done.eval_s) + train_s + eval_s
        experiment = run.config.experiment
        num_parameters = sum(parameter.numel() for parameter in run.model.net.parameters())
        say(
            f"{experiment.model} on {experiment.dataset} with {experiment.backbone} "
            f"({num_parameters:,} parameters) on {run.model.device}: "
            f"lr {run.config.optimizer.lr:g}, batch {experiment.batch_size}, "
            f"{_length(run.config)} per task"
        )
        if run.config.logging.notes:
            say(f"notes: {run.config.logging.notes}")

    def end_run(self, run: Run) -> None:
        """Prints times unless the run was interrupted, and where its folder and report are."""
        if not run.results.interrupted:
            self._say_times(run)
        folder = folder_of(run.config)
        if folder is None:
            return
        say(f"run: {folder}")
        if run.results.class_il:
            say(f"report: {folder / REPORT}")
            path = shlex.quote(str(folder))
            say(f"compare: python -m mammoth_compiled.report {path} OTHER_RUN ...")

    def _say_times(self, run: Run) -> None:
        results = run.results
        resumed = f" ({self._before:.1f} s before it was resumed)" if self._before else ""
        say(
            f"total: {self._before + time.perf_counter() - self._started:.1f} s{resumed}; training "
            f"{sum(results.train_s) - sum(results.compile_s):.1f} s "
            f"({results.images_per_second:,.0f} images/s), compiling "
            f"{sum(results.compile_s):.1f} s, evaluation {sum(results.eval_s):.1f} s"
        )


class FinalTable(Observer):
    """Prints the accuracy matrix when the run ends or is interrupted."""

    ORDER: ClassVar[int] = 60
    COMMAND_LINE_ONLY: ClassVar[bool] = True

    @classmethod
    def from_config(cls, config: RunConfig) -> Observer | None:
        """Returns one for every run from the command line."""
        return cls()

    def end_run(self, run: Run) -> None:
        """Prints the table, one row per task."""
        results = run.results
        if not results.class_il:
            return
        colored = (
            accuracy_table(results) if sys.stdout is not None and sys.stdout.isatty() else None
        )
        say("\nAccuracy in %:\n" + results.table(), always=True, shown=colored)


def accuracy_table(results: Results, width: int | None = None) -> str:
    """Returns the accuracy matrix as a table for a terminal, with a color for each accuracy.

    Where not all tasks fit beside each other, it has only the accuracies on the last ones.

    Args:
        results: The results, with at least one task.
        width: Columns of the terminal; None to ask it.
    """
    from rich import box, console, table

    drawn = io.StringIO()
    terminal = console.Console(file=drawn, force_terminal=True, width=width)
    num_tasks = len(results.class_il[-1])
    room = terminal.width - AVERAGES_WIDTH
    decimals = 1 if 6 * num_tasks <= room else 0  # "100.0 " or "100 "
    first = max(num_tasks - room // (4 + 2 * decimals), 0)
    title = "Accuracy in %" + (f" on tasks {first + 1} to {num_tasks}" if first else "")
    grid = table.Table(box=box.SIMPLE_HEAD, title=title, padding=0)
    grid.add_column("after", no_wrap=True)
    for task in range(first, num_tasks):
        grid.add_column(str(task + 1), justify="right", no_wrap=True)
    for name in ("Class-IL", "Task-IL"):
        grid.add_column(name, justify="right", style="bold", no_wrap=True)
    for task, (row, task_il) in enumerate(zip(results.class_il, results.task_il, strict=True)):
        cells = [f"[{_color(value)}]{100 * value:.{decimals}f}[/]" for value in row[first:]]
        cells += [""] * (num_tasks - first - len(cells))
        averages = [f"{100 * average(values):.2f}" for values in (row, task_il)]
        grid.add_row(f"task {task + 1}" if not results.is_joint else "training", *cells, *averages)
    terminal.print(grid)
    forgotten = forgetting(results.class_il)
    if forgotten is not None:
        terminal.print(f"forgetting (Class-IL): {100 * forgotten:.2f}", highlight=False)
    return drawn.getvalue().rstrip("\n")


def _color(accuracy: float) -> str:
    """Returns a color from red for 0 over yellow to green for 1."""
    return ("red", "dark_orange", "yellow", "chartreuse3", "green")[min(int(5 * accuracy), 4)]
