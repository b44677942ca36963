"""load: runs as a pandas DataFrame."""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from mammoth_compiled.errors import ConfigError, MammothError
from mammoth_compiled.report.runs import RecordedRun, read_runs

if TYPE_CHECKING:
    import pandas


def load(
    runs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    per: Literal["run", "task"] = "run",
) -> "pandas.DataFrame":
    """Returns runs as a table; needs pandas.

    Args:
        runs: A run folder, a results file, a folder that contains runs, or several of them.
        per: `run` for one row per run, with its arguments and its final measures; `task` for one
            row per evaluation and task, with `after_task` and `task`, counted from 0, and the
            accuracies `class_il` and `task_il`.

    Returns:
        The table. Columns of every row are `run`, `model`, `dataset`, `backbone`, `seed`. A measure
        whose name is also an argument's keeps the name, and the argument gets the prefix `arg_`.

    Raises:
        MammothError: If a run cannot be read or pandas is not installed.
        ConfigError: If `per` is unknown.

    Example:
        >>> from mammoth_compiled.report import load
        >>> from mammoth_compiled.results import Results
        >>> accuracies = [[0.9], [0.5, 0.8]]
        >>> results = Results({"model": "sgd", "seed": 0}, accuracies, accuracies)
        >>> results.write_json("sgd.json")
        >>> load("sgd.json")[["seed", "class_il", "forgetting_class_il"]].values.tolist()
        [[0.0, 0.65, 0.4]]
        >>> len(load("sgd.json", per="task"))
        3
    """
    try:
        import pandas
    except ImportError as error:
        raise MammothError("load needs pandas: pip install 'mammoth-compiled[report]'") from error
    paths = [runs] if isinstance(runs, (str, os.PathLike)) else list(runs)
    if per not in ("run", "task"):
        raise ConfigError(f"per must be 'run' or 'task', got {per!r}")
    make = _run_row if per == "run" else _task_rows
    return pandas.DataFrame([row for run in read_runs(paths) for row in make(run)])


def _keys(run: RecordedRun) -> dict[str, Any]:
    names = ("model", "dataset", "backbone", "seed")
    return {"run": run.name, **{name: run.config.get(name) for name in names}}


def _run_row(run: RecordedRun) -> list[dict[str, Any]]:
    measures = {**run.measures(), "tasks": run.num_tasks, "interrupted": run.interrupted}
    keys = _keys(run)
    arguments = {
        f"arg_{name}" if name in measures else name: value
        for name, value in run.config.items()
        if name not in keys
    }
    return [{**keys, **measures, **arguments}]


def _task_rows(run: RecordedRun) -> list[dict[str, Any]]:
    return [
        {
            **_keys(run),
            "after_task": after_task,
            "task": task,
            "class_il": class_il[task],
            "task_il": task_il[task],
        }
        for after_task, (class_il, task_il) in enumerate(
            zip(run.class_il, run.task_il, strict=True)
        )
        for task in range(len(class_il))
    ]
