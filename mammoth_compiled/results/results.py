"""Results: what a run measured."""

import platform
from copy import copy
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import torch

from mammoth_compiled.errors import MammothError
from mammoth_compiled.files import write_atomically
from mammoth_compiled.metrics import (
    Matrix,
    average,
    average_incremental,
    forgetting,
    micro_accuracy,
    per_class_accuracy,
)
from mammoth_compiled.results.across_tasks import measures_across_tasks
from mammoth_compiled.results.formats import hardware, plain_arguments, rows_of, to_json
from mammoth_compiled.results.html import results_html
from mammoth_compiled.results.schema import read_results_file
from mammoth_compiled.types import Evaluation

__all__ = ["EVALUATED", "PER_TASK", "Results", "plain_arguments"]

# Attributes of an evaluation that are kept for each task.
EVALUATED = (
    *("class_il", "task_il", "loss", "top5", "ece", "recency_bias"),
    *("future_class_il", "future_task_il"),
)
# Lists with one entry per task that older files lack, and what stands for a missing entry.
PER_TASK: dict[str, Any] = {
    "top5": [],
    "micro_class_il": float("nan"),
    "per_class": [],
    "ece": float("nan"),
    "recency_bias": None,
    "future_class_il": [],
    "future_task_il": [],
    "peak_memory": 0,
}


@dataclass
class Results:
    """The results of a run; `docs/reference/measures.md` defines the measures.

    Lists have one entry per task, unless noted otherwise.

    Attributes:
        config: The arguments of the run.
        class_il: Row t has the accuracies in [0, 1] after task t on each task seen, with
            predictions among all classes seen.
        task_il: The same with predictions among the task's own classes.
        micro_class_il: Class-IL accuracy in [0, 1] over all test images of the tasks seen, of which
            each counts once; `accuracy` has the mean over tasks.
        loss: Mean test loss after each task, nats, with the softmax over all classes.
        train_s: Training time of each task in seconds, including compilation.
        compile_s: The part of it spent on tracing and compilation.
        eval_s: Evaluation time after each task in seconds.
        train_images: Images trained on in each task, counted once per epoch.
        top5: Top-5 accuracy in [0, 1] on each task seen, among all classes seen.
        per_class: Class-IL accuracy in [0, 1] on each class seen; None for a class without images.
        confusion: After the last task: number of test images of class i (row) predicted as class k
            (column), among the classes seen.
        ece: Expected calibration error in [0, 1].
        recency_bias: Share of images of earlier tasks predicted as a class of the newest task; None
            if there is no earlier task.
        initial_class_il: Accuracy in [0, 1] of the untrained network on every task, among the
            classes of the task and of those before it; empty without `--eval_future`.
        initial_task_il: The same, among the classes of the task.
        future_class_il: Row t has the accuracies after task t on the tasks t + 1, t + 2, ..., among
            the classes of the task and of those before it; rows are empty without `--eval_future`.
        future_task_il: The same, among the classes of the task.
        peak_memory: Peak memory in bytes during each task: allocated on the GPU, or resident memory
            of the process since its start on a CPU.
        curve: The evaluations within tasks (`--eval_every`, `--eval_epochs`), each a dictionary of
            `task` and `epoch` (from 0), `step` of the task (from 1), `class_il`, `task_il`, `loss`.
        class_names: The name of each class id, also of classes not seen yet.
        notes: Decisions and counters of the run: `compile`, `compiler`, `step`.
        interrupted: True if the user interrupted the run.
    """

    config: dict[str, Any] = field(default_factory=dict)
    class_il: Matrix = field(default_factory=list)
    task_il: Matrix = field(default_factory=list)
    micro_class_il: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    train_s: list[float] = field(default_factory=list)
    compile_s: list[float] = field(default_factory=list)
    eval_s: list[float] = field(default_factory=list)
    train_images: list[int] = field(default_factory=list)
    top5: Matrix = field(default_factory=list)
    per_class: list[list[float | None]] = field(default_factory=list)
    confusion: list[list[int]] = field(default_factory=list)
    ece: list[float] = field(default_factory=list)
    recency_bias: list[float | None] = field(default_factory=list)
    initial_class_il: list[float] = field(default_factory=list)
    initial_task_il: list[float] = field(default_factory=list)
    future_class_il: Matrix = field(default_factory=list)
    future_task_il: Matrix = field(default_factory=list)
    peak_memory: list[int] = field(default_factory=list)
    curve: list[dict[str, Any]] = field(default_factory=list)
    class_names: list[str] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    interrupted: bool = False

    def add(
        self,
        evaluation: Evaluation,
        *,
        train_s: float,
        eval_s: float,
        images: int,
        compile_s: float = 0.0,
        peak_memory: int = 0,
    ) -> None:
        """Appends the measurements of one task."""
        self.train_s.append(train_s)
        self.compile_s.append(compile_s)
        self.eval_s.append(eval_s)
        self.train_images.append(images)
        self.peak_memory.append(peak_memory)
        self._set(len(self.class_il), evaluation)

    def replace_last(self, evaluation: Evaluation) -> None:
        """Replaces the measures after the last task."""
        self._set(len(self.class_il) - 1, evaluation)

    def _set(self, task: int, evaluation: Evaluation) -> None:
        for name in EVALUATED:
            getattr(self, name)[task:] = [getattr(evaluation, name)]
        self.per_class[task:] = [per_class_accuracy(evaluation.confusion)]
        self.micro_class_il[task:] = [micro_accuracy(evaluation.confusion)]
        self.confusion = evaluation.confusion

    def accuracies(self, setting: str = "class_il", num_tasks: int | None = None) -> Matrix:
        """Returns the accuracies of all evaluations, within and after tasks, in order of time.

        Args:
            setting: "class_il" or "task_il".
            num_tasks: Number of tasks whose evaluations to return; None for all.

        Returns:
            One row per evaluation, one entry per task seen.
        """
        rows: Matrix = []
        for task, row in enumerate(getattr(self, setting)[:num_tasks]):
            rows += [point[setting] for point in self.curve if point["task"] == task]
            rows += [row] if row else []
        return rows

    @property
    def is_joint(self) -> bool:
        """Whether all tasks were learned at once, so that nothing compares one with another."""
        return len(self.class_il) == 1 and len(self.class_il[0]) > 1

    @property
    def accuracy(self) -> dict[str, float]:
        """Final average accuracy in [0, 1], `class_il` and `task_il`; NaN before the first task."""
        nothing: Matrix = [[]]
        return {
            "class_il": average((self.class_il or nothing)[-1]),
            "task_il": average((self.task_il or nothing)[-1]),
        }

    @property
    def images_per_second(self) -> float:
        """Images trained on per second, not counting compilation time."""
        seconds = sum(self.train_s) - sum(self.compile_s)
        return sum(self.train_images) / seconds if seconds else float("nan")

    def summary(self) -> dict[str, Any]:
        """Returns the figures that runs are compared by, those after the last task or in total."""

        def last(values: list[Any]) -> Any:
            return values[-1] if values else None

        return {
            "class_il": self.accuracy["class_il"],
            "task_il": self.accuracy["task_il"],
            "micro_class_il": last(self.micro_class_il),
            "average_incremental_micro_class_il": average_incremental(
                [[value] for value in self.micro_class_il if value == value]
            ),
            **measures_across_tasks(self, "class_il"),
            **measures_across_tasks(self, "task_il"),
            "top5": average(last(self.top5) or []),
            "loss": last(self.loss),
            "ece": last(self.ece),
            "recency_bias": last(self.recency_bias),
            "peak_memory": max(self.peak_memory, default=0),
            "train_s": sum(self.train_s),
            "compile_s": sum(self.compile_s),
            "eval_s": sum(self.eval_s),
            "images_per_s": self.images_per_second,
        }

    def state_dict(self) -> dict[str, Any]:
        """Returns the measurements as plain data, for a checkpoint."""
        measured = (f.name for f in fields(self) if f.name not in ("config", "interrupted"))
        return {name: getattr(self, name) for name in measured}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned, also that of an older release."""
        for name, value in state.items():
            setattr(self, name, value)
        for name, missing in PER_TASK.items():
            values = getattr(self, name)
            values += [copy(missing) for _ in range(len(self.class_il) - len(values))]

    @classmethod
    def read_json(cls, path: str | Path) -> Self:
        """Returns the results in a file that `write_json` wrote, also in an older release.

        Raises:
            MammothError: If the file cannot be read or does not contain results.
        """
        content = read_results_file(path)
        results = cls()
        known = {f.name for f in fields(cls)}
        results.load_state_dict({name: v for name, v in content.items() if name in known})
        for name in ("loss", "ece", "micro_class_il"):  # JSON has no NaN
            values = getattr(results, name)
            setattr(results, name, [float("nan") if v is None else v for v in values])
        return results

    def to_dataframe(self, kind: str = "accuracy") -> Any:
        """Returns the results as a `pandas.DataFrame`.

        Args:
            kind: What a row is: "accuracy": the accuracies on one task after another (`after_task`,
                `task`, `class_il`, `task_il`, `top5`); "task": all measures after one task, those
                of `summary` up to it included; "class": the accuracy on one class after one task
                (`class_id`, `name`, `class_il`); "curve": the accuracies on one task in an
                evaluation within a task (`after_task` is the task in training, `epoch`, `step`).
                Tasks are counted from 0.

        Raises:
            MammothError: If pandas is not installed.
            ValueError: If `kind` is unknown.

        Example:
            >>> results = Results()
            >>> for row in ([1.0], [0.5, 0.75]):
            ...     results.add(Evaluation(row, row), train_s=1.0, eval_s=0.1, images=8)
            >>> results.to_dataframe()[["after_task", "task", "class_il"]].values.tolist()
            [[0.0, 0.0, 1.0], [1.0, 0.0, 0.5], [1.0, 1.0, 0.75]]
        """
        try:
            import pandas
        except ImportError as error:
            raise MammothError(
                "to_dataframe requires pandas, which is not installed: pip install pandas"
            ) from error
        return pandas.DataFrame(rows_of(self, kind))

    def table(self) -> str:
        """Returns the accuracies as a table, one row per task, in percent."""
        tasks = max((len(row) for row in self.class_il), default=0)
        head = ["after", *(f"task {j + 1}" for j in range(tasks)), "Class-IL", "Task-IL"]
        lines = ["".join(f"{cell:>10}" for cell in head)]
        for t, (class_row, task_row) in enumerate(zip(self.class_il, self.task_il, strict=True)):
            if not class_row:  # skipped
                continue
            after = "training" if self.is_joint else f"task {t + 1}"
            cells = [f"{100 * a:.2f}" for a in class_row] + [""] * (tasks - len(class_row))
            cells += [f"{100 * average(class_row):.2f}", f"{100 * average(task_row):.2f}"]
            lines.append("".join(f"{cell:>10}" for cell in [after, *cells]))
        forgotten = forgetting(self.class_il)
        if forgotten is not None:
            lines.append(f"forgetting (Class-IL): {100 * forgotten:.2f}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Returns tables and a chart, for notebooks."""
        return results_html(self)

    def write_json(self, path: str | Path) -> None:
        """Writes everything to a JSON file, atomically.

        Raises:
            MammothError: If the file cannot be written.
        """
        content = {
            "schema": 1,
            "config": self.config,
            "summary": self.summary(),
            **self.state_dict(),
            "interrupted": self.interrupted,
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            "hardware": hardware(),
        }
        write_atomically(Path(path), to_json(content).encode())
