"""Results as JSON text and as the rows of a table, and the hardware they come from."""

import json
import platform
import re
from argparse import Namespace
from typing import Any

import torch

from mammoth_compiled.errors import shorten
from mammoth_compiled.results.across_tasks import measures_across_tasks

# Measures with one value per task.
TASK_MEASURES = (
    *("micro_class_il", "loss", "ece", "recency_bias", "train_s", "compile_s", "eval_s"),
    *("train_images", "peak_memory"),
)
KINDS = ("accuracy", "task", "class", "curve")


def plain_arguments(args: Namespace) -> dict[str, Any]:
    """Returns the arguments that JSON and checkpoints can represent."""
    return {name: value for name, value in vars(args).items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(v) for v in value)
    return value is None or isinstance(value, (bool, int, float, str))


def to_json(content: dict[str, Any]) -> str:
    """Returns results as JSON text; NaN and infinity, which JSON lacks, become null."""
    text = json.dumps(_finite(content), indent=2, allow_nan=False)
    # A list of numbers takes one line, not one line per number.
    text = re.sub(
        r"\[\n([\s\d.eE+,\-nul]+)\]", lambda match: f"[{' '.join(match[1].split())}]", text
    )
    return text + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not -float("inf") < value < float("inf"):
        return None
    return value


def hardware() -> dict[str, Any]:
    """Returns the hardware that the speed of a run depends on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
    }


def rows_of(results: Any, kind: str) -> list[dict[str, Any]]:
    """Returns the rows of a table; see `Results.to_dataframe`.

    Raises:
        ValueError: If `kind` is unknown.
    """
    if kind == "accuracy":
        return [
            {"after_task": t, "task": j, "class_il": c, "task_il": own, "top5": top5}
            for t, row in enumerate(results.class_il)
            for j, (c, own, top5) in enumerate(
                zip(row, results.task_il[t], results.top5[t] or [None] * len(row), strict=True)
            )
        ]
    if kind == "task":
        return [
            {
                "after_task": t,
                "class_il": _average(row),
                "task_il": _average(results.task_il[t]),
                "top5": _average(results.top5[t]),
                **measures_across_tasks(results, "class_il", t + 1),
                **measures_across_tasks(results, "task_il", t + 1),
                **{name: getattr(results, name)[t] for name in TASK_MEASURES},
            }
            for t, row in enumerate(results.class_il)
        ]
    if kind == "class":
        names = results.class_names
        return [
            {
                **{"after_task": t, "class_id": k, "name": names[k] if k < len(names) else str(k)},
                "class_il": accuracy,
            }
            for t, row in enumerate(results.per_class)
            for k, accuracy in enumerate(row)
        ]
    if kind == "curve":
        return [
            {
                **{"after_task": point["task"], "epoch": point["epoch"], "step": point["step"]},
                **{"task": j, "class_il": class_il, "task_il": point["task_il"][j]},
            }
            for point in results.curve
            for j, class_il in enumerate(point["class_il"])
        ]
    raise ValueError(f"unknown kind {shorten(kind)}; valid: {', '.join(KINDS)}")


def _average(row: list[float]) -> float | None:
    return sum(row) / len(row) if row else None
