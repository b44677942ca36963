"""Hostile results files, as `report` and resumed sweeps read them."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hostile_inputs.harness import EITHER, REFUSED, Input, command
from hostile_inputs.texts import places, writer

# A results file, small but with every field.
RESULTS = {
    "schema": 1,
    "config": {"model": "sgd", "dataset": "seq-x", "seed": 0, "lr": 0.1, "n_epochs": 1},
    "summary": {"class_il": 0.5, "task_il": 0.75, "train_s": 1.0},
    "class_il": [[0.9], [0.4, 0.6]],
    "task_il": [[0.9], [0.7, 0.8]],
    "loss": [0.1, None],
    "train_s": [1.0, 1.0],
    "compile_s": [0.0, 0.0],
    "eval_s": [0.1, 0.1],
    "train_images": [36, 36],
    "notes": {"compile": False, "compiler": {"graphs": 0}, "step": {}, "steps": 10},
    "top5": [[1.0], [1.0, 1.0]],
    "per_class": [[0.9, 0.9], [0.4, 0.4, 0.6, 0.6]],
    "confusion": [[5, 0, 0, 0], [0, 5, 0, 0], [0, 0, 5, 0], [0, 0, 0, 5]],
    "class_names": ["a", "b", "c", "d"],
    "ece": [0.1, 0.1],
    "recency_bias": [None, 0.1],
    "initial_class_il": [0.5, 0.5],
    "initial_task_il": [0.5, 0.5],
    "future_class_il": [[0.5], []],
    "future_task_il": [[0.5], []],
    "peak_memory": [0, 0],
    "curve": [{"task": 0, "epoch": 1, "step": 3, "class_il": [0.3], "task_il": [0.3], "loss": 0.1}],
    "interrupted": False,
    "versions": {"python": "3.11", "torch": "2.14"},
    "hardware": {"machine": "x86_64", "cpu_capability": "AVX2", "threads": 1, "gpu": None},
}
VALUES = [None, True, -1, 7, 1e308, "x", "\ud800", [], [[]], [None], [["x"]], {}, {"x": None}]
VALUES.append(10**400)


def fields(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the path of every value in JSON; of a list of values only the first."""
    if path:
        yield path
    items = content.items() if isinstance(content, dict) else enumerate(content[:1])
    for key, value in items:
        if isinstance(value, (dict, list)):
            yield from fields(value, (*path, key))
        else:
            yield (*path, key)


def changed(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Returns a copy in which one value is replaced, or removed if it is `...`."""
    result = copy.deepcopy(content)
    *parents, last = path
    parent = result
    for key in parents:
        parent = parent[key]
    if value is ...:
        del parent[last]
    else:
        parent[last] = value
    return result


def results() -> Iterator[Input]:
    """Yields results files that `report` reads. Fields that it does not show may be anything."""
    call = command("report", "r.json", "--output", "r.html")
    for path in fields(RESULTS):
        for value in [*VALUES, ...]:
            text = json.dumps(changed(RESULTS, path, value))
            what = f"{'.'.join(map(str, path))} = {str(value)[:20]!r}"
            write = writer("r.json", text)
            yield Input("results files", what, call, EITHER, write, shares=True, check=_is_page)
    good = json.dumps(RESULTS)
    for what, content in {
        **{f"first {n} characters": good[:n] for n in (0, 1, 10, 100, 500)},
        "deep": "[" * 100_000,
        "a list": f"[{good}]",
        "NaN": "NaN",
        "not UTF-8": b'{"config": "\xff"}',
        "an image": b"\x89PNG\r\n\x1a\n" + bytes(100),
    }.items():
        yield Input("results files", what, call, REFUSED, writer("r.json", content))
    yield from places("results files", "r.json", call)


def _is_page() -> str:
    """Returns what is wrong with the report, "" if nothing is or there is none."""
    path = Path("r.html")
    if path.exists() and not path.read_text(encoding="utf-8").rstrip().endswith("</html>"):
        return "the report is not complete"
    return ""
