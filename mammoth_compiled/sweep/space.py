"""The file of a sweep: fixed arguments, what varies, and how to search it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from mammoth_compiled.config.config_file import MAX_RUNS
from mammoth_compiled.errors import ConfigError, shorten, unknown_name

METHODS = ("grid", "random", "tpe")
METRICS = ("class_il", "task_il")
PRUNERS = ("none", "median")
# Of a range: its largest bound, and its values with a step.
MAX_BOUND = 1e300
MAX_STEPS = 10**6
# NumPy's generators, with which Optuna draws, take seeds of 32 bits.
LIMITS = {"trials": (1, MAX_RUNS), "seed": (0, 2**32 - 1)}
RANGE_KEYS = {"low", "high", "log", "step"}


@dataclass(frozen=True)
class Search:
    """The section `sweep` of the file.

    Attributes:
        method: "grid" runs every combination, "random" and "tpe" (tree-structured Parzen estimator,
            Bergstra et al. 2011) draw combinations with Optuna.
        trials: Number of combinations that "random" and "tpe" try.
        metric: What to maximize: average accuracy after the last task, "class_il" or "task_il".
        pruning: "median" stops a combination whose accuracy after a task is below the median of
            those before it.
        seed: Seed of the search itself.
    """

    method: Literal["grid", "random", "tpe"] = "grid"
    trials: int = 20
    metric: Literal["class_il", "task_il"] = "class_il"
    pruning: Literal["none", "median"] = "none"
    seed: int = 0

    @classmethod
    def from_section(cls, section: Any) -> "Search":
        """Returns the search that a section describes.

        Raises:
            ConfigError: If it has an unknown name or an invalid value.
        """
        if not isinstance(section, Mapping):
            raise ConfigError(f"sweep: must give arguments by name, got {shorten(section)}")
        names = [field.name for field in fields(cls)]
        for name in section:
            if name not in names:
                raise ConfigError(f"sweep: {unknown_name('argument', name, names)}")
        search = cls(**section)
        for name, valid in (("method", METHODS), ("metric", METRICS), ("pruning", PRUNERS)):
            if getattr(search, name) not in valid:
                given = shorten(getattr(search, name))
                raise ConfigError(f"sweep: {name} must be one of {', '.join(valid)}, got {given}")
        for name, (minimum, maximum) in LIMITS.items():
            value = getattr(search, name)
            is_integer = isinstance(value, int) and not isinstance(value, bool)
            if not is_integer or not minimum <= value <= maximum:
                raise ConfigError(
                    f"sweep: {name} must be an integer >= {minimum} and at most {maximum:,}, got "
                    f"{shorten(value)}"
                )
        if search.method == "grid" and search.pruning != "none":
            raise ConfigError("sweep: pruning needs method random or tpe; a grid runs everything")
        return search


@dataclass(frozen=True)
class Range:
    """Values between two bounds: `lr: {low: 0.001, high: 1, log: true}`.

    Attributes:
        low: Smallest value.
        high: Largest value.
        log: Whether to draw the logarithm uniformly.
        step: Distance of the values, None for any; integers if `low` and `step` are.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @classmethod
    def from_mapping(cls, name: str, values: Mapping[str, Any]) -> "Range":
        """Returns the range that an argument of the file gives.

        Raises:
            ConfigError: If it has no bounds, or they do not form a range.
        """
        example = "give {low: 0.001, high: 1, log: true}"
        if not {"low", "high"} <= set(values) <= RANGE_KEYS:
            raise ConfigError(f"{name}: {shorten(dict(values))} is not a range: {example}")
        result = cls(**values)
        numbers = [result.low, result.high, *([] if result.step is None else [result.step])]
        if not all(map(_is_number, numbers)) or result.low >= result.high:
            raise ConfigError(f"{name}: {shorten(dict(values))} is not a range: {example}")
        if not isinstance(result.log, bool):
            raise ConfigError(f"{name}: log must be true or false, got {shorten(result.log)}")
        if result.step is not None and not _is_step(result):
            raise ConfigError(
                f"{name}: step must be positive, at most high - low, and at least "
                f"(high - low) / {MAX_STEPS:,}, got {shorten(result.step)}"
            )
        if result.log and (result.low <= 0 or result.step is not None):
            raise ConfigError(f"{name}: a range with log: true needs low > 0 and no step")
        return result

    @property
    def is_integer(self) -> bool:
        """Whether the values are integers."""
        return all(isinstance(n, int) for n in (self.low, self.high, self.step or 1))


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and -MAX_BOUND <= value <= MAX_BOUND


def _is_step(values: Range) -> bool:
    width = values.high - values.low
    return bool(values.step) and 1 <= width / (values.step or 1) <= MAX_STEPS
