"""The schema of a results file: what reports and resumed sweeps rely on, checked before use."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mammoth_compiled.errors import MammothError, shorten
from mammoth_compiled.reading import read_file

Check = Callable[[Any], bool]

# A file of a run with hundreds of tasks has some megabytes.
MAX_BYTES = 2**28
MAX_DEPTH = 20
_REMEDY = "give a file that a run wrote"
# Integers that a float represents.
MAX_INTEGER = 2**63


def read_results_file(path: str | Path) -> dict[str, Any]:
    """Returns the contents of a results file.

    Raises:
        MammothError: If the file cannot be read, is not JSON, or violates the schema; says which
            field.
    """
    content = read_file(Path(path), MAX_BYTES)
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:  # ValueError: also text that is not UTF-8
        raise MammothError(
            f"{path} is not a results file, it is not a JSON file: {error}; {_REMEDY}"
        ) from error
    if not (isinstance(found, dict) and isinstance(found.get("class_il"), list)):
        raise MammothError(
            f"{path} is not a results file, it does not contain the results of a run: use a file "
            f"written by --results_path, or {_REMEDY}"
        )
    try:
        check_results(found)
    except MammothError as error:
        raise MammothError(f"{path} is not a results file ({error}): {_REMEDY}") from error
    return found


def check_results(content: dict[str, Any]) -> None:
    """Checks the fields of a results file; an older release may have written fewer.

    Raises:
        MammothError: If one is missing, or has the wrong type or an impossible value.
    """
    for name in ("class_il", "task_il"):
        if name not in content:
            raise MammothError(f"lacks {name}")
    for name, value in content.items():
        _check_plain(value, name)
        expected, check = FIELDS.get(name, ("", _is_anything))
        if not check(value):
            raise MammothError(f"{name} must be {expected}, got {shorten(value)}")
    for name, (expected, check) in CONFIG.items():
        value = content.get("config", {}).get(name)
        if not check(value):
            raise MammothError(f"config.{name} must be {expected}, got {shorten(value)}")
    if list(map(len, content["class_il"])) != list(map(len, content["task_il"])):
        raise MammothError("class_il and task_il must have rows of the same lengths")


def _check_plain(value: Any, field: str, depth: int = 0) -> None:
    """Checks what no value may be, wherever it is: too deep, too large, not a text."""
    if depth > MAX_DEPTH:
        raise MammothError(f"{field} is nested too deeply")
    if isinstance(value, dict):
        for name, item in value.items():
            _check_plain(name, field, depth + 1)
            _check_plain(item, f"{field}.{shorten(name, 40)[1:-1]}", depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_plain(item, field, depth + 1)
    elif isinstance(value, int) and abs(value) >= MAX_INTEGER:
        raise MammothError(f"{field} must be an integer below 2^63 in magnitude")
    elif isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise MammothError(f"{field} contains a text that is not valid Unicode") from None


def _is_anything(value: Any) -> bool:
    return True


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_measure(value: Any) -> bool:
    return value is None or _is_number(value)


def _is_fraction(value: Any) -> bool:
    return value is None or (_is_number(value) and (0 <= value <= 1 or value != value))


def _is_count(value: Any) -> bool:
    return _is_number(value) and isinstance(value, int) and value >= 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _is_evaluation(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    counts = all(_is_count(value.get(name)) for name in ("task", "epoch", "step"))
    return counts and all(list_of(_is_fraction)(value.get(n)) for n in ("class_il", "task_il"))


def _is_square(value: Any) -> bool:
    is_matrix = list_of(list_of(_is_number))(value)
    return is_matrix and all(len(row) == len(value) for row in value)


def optional(check: Check) -> Check:
    """Accepts None, too."""
    return lambda value: value is None or check(value)


def list_of(check: Check) -> Check:
    """Accepts lists of valid values."""
    return lambda value: isinstance(value, list) and all(map(check, value))


_MAPPING = ("an object", optional(_is_mapping))
_ACCURACIES = ("lists of numbers from 0 to 1", list_of(list_of(_is_fraction)))
_MEASURES = ("a list of numbers", list_of(_is_measure))
FIELDS: dict[str, tuple[str, Check]] = {
    "config": ("an object", _is_mapping),
    "summary": _MAPPING,
    "notes": _MAPPING,
    "versions": _MAPPING,
    "hardware": _MAPPING,
    "class_il": _ACCURACIES,
    "task_il": _ACCURACIES,
    "top5": _ACCURACIES,
    "per_class": _ACCURACIES,
    "future_class_il": _ACCURACIES,
    "future_task_il": _ACCURACIES,
    "confusion": ("a square matrix of counts", optional(_is_square)),
    "class_names": ("a list of texts", optional(list_of(_is_text))),
    "curve": ("a list of evaluations within tasks", optional(list_of(_is_evaluation))),
    "interrupted": ("true or false", optional(_is_flag)),
    **{
        name: _MEASURES
        for name in (
            *("loss", "train_s", "compile_s", "eval_s", "train_images", "ece", "recency_bias"),
            "micro_class_il",
            *("initial_class_il", "initial_task_il", "peak_memory"),
        )
    },
}
CONFIG: dict[str, tuple[str, Check]] = {
    "seed": ("an integer >= 0", optional(_is_count)),
    **{n: ("a text", optional(_is_text)) for n in ("model", "dataset", "backbone")},
}
