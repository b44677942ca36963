"""Reads what runs recorded: results files, run folders, and folders of runs."""

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mammoth_compiled.errors import MammothError
from mammoth_compiled.metrics import (
    Matrix,
    average,
    average_incremental,
    backward_transfer,
    forgetting,
    learning_accuracy,
)
from mammoth_compiled.results.schema import read_results_file

FILE_NAME = "results.json"


@dataclass(frozen=True)
class RecordedRun:
    """A run as its results file describes it.

    Attributes:
        name: Name of its folder or file.
        path: The results file.
        config: Its arguments.
        class_il: Row t has the accuracies in [0, 1] after task t, among all classes seen.
        task_il: The same among the task's own classes.
        content: Everything in the file.
    """

    name: str
    path: Path
    config: Mapping[str, Any]
    class_il: Matrix
    task_il: Matrix
    content: Mapping[str, Any] = field(repr=False)

    @property
    def seed(self) -> int | None:
        """The seed, None if it had none."""
        return self.config.get("seed")

    @property
    def interrupted(self) -> bool:
        """Whether it ended before its last task."""
        return bool(self.content.get("interrupted"))

    @property
    def notes(self) -> Mapping[str, Any]:
        """What it recorded about its computation, such as `compile`, `compiler` and `step`."""
        return self.content.get("notes") or {}

    @property
    def num_tasks(self) -> int:
        """Number of tasks in the last evaluation."""
        return len(self.class_il[-1]) if self.class_il else 0

    def evaluations(self) -> Matrix:
        """Returns the Class-IL accuracies of all evaluations, within and after tasks, in order."""
        rows: Matrix = []
        for task, row in enumerate(self.class_il):
            points = self.content.get("curve") or ()
            rows += _matrix(point["class_il"] for point in points if point["task"] == task)
            rows += [row] if row else []
        return rows

    def measures(self) -> dict[str, float]:
        """Returns the figures that runs are compared by, of those that were recorded.

        Accuracies, forgetting and transfer are fractions, times are in seconds.
        """
        found: dict[str, Any] = {
            "class_il": average((self.class_il or [[]])[-1]),
            "task_il": average((self.task_il or [[]])[-1]),
            "average_incremental_class_il": average_incremental(self.class_il),
            "forgetting_class_il": forgetting(self.class_il),
            "forgetting_task_il": forgetting(self.task_il),
            "backward_transfer_class_il": backward_transfer(self.class_il),
            "learning_accuracy_class_il": learning_accuracy(self.class_il),
        }
        summary = self.content.get("summary") or {}
        found |= {key: value for key, value in summary.items() if _is_number(value)}
        return {key: value for key, value in found.items() if _is_number(value)}


def read_runs(paths: Iterable[str | os.PathLike[str]]) -> list[RecordedRun]:
    """Reads runs, each once.

    Args:
        paths: Results files, run folders with a `results.json`, or folders that contain some.

    Raises:
        MammothError: If a path has no results, or a file is not one of results.
    """
    files = dict.fromkeys(file.resolve() for path in paths for file in _files(Path(path)))
    if not files:
        raise MammothError("no runs: give run folders, results files, or a folder that has runs")
    names = [file.parent.name if file.name == FILE_NAME else file.stem for file in files]
    return [
        _read(file, name if names.count(name) == 1 else str(file.with_suffix("")))
        for file, name in zip(files, names, strict=True)
    ]


def _files(path: Path) -> list[Path]:
    if os.path.isfile(path):  # unlike `Path.is_file`, also for impossible paths
        return [path]
    if not os.path.isdir(path):
        raise MammothError(f"there is no run at {path}: give a run folder or a results file")
    if (path / FILE_NAME).is_file():
        return [path / FILE_NAME]
    found = sorted(path.rglob(FILE_NAME))
    if not found:
        raise MammothError(
            f"{path} has no {FILE_NAME}, and no folder in it has one: runs write it when they end; "
            "see --out and --results_path"
        )
    return found


def _read(path: Path, name: str) -> RecordedRun:
    content = read_results_file(path)
    return RecordedRun(
        name=name,
        path=path,
        config=content.get("config", {}),
        class_il=_matrix(content["class_il"]),
        task_il=_matrix(content["task_il"]),
        content=content,
    )


def _matrix(rows: Any) -> Matrix:
    """Returns a matrix of JSON, with NaN for null."""
    return [[float("nan") if value is None else float(value) for value in row] for row in rows]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
