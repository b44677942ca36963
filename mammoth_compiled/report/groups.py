"""Groups runs: those that differ in their seed only are one method; methods share a dataset."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

from mammoth_compiled.config.schema import FilesConfig, LoggingConfig
from mammoth_compiled.metrics import Matrix, average
from mammoth_compiled.report.runs import RecordedRun
from mammoth_compiled.report.statistics import Summary, summarize

# Arguments that do not change what a run computes.
NOT_COMPARED = {field.name for section in (FilesConfig, LoggingConfig) for field in fields(section)}
NOT_COMPARED |= {"seed"}

# Figures and tests show so many methods: there are 6 colors with 3 kinds of dashes.
MAX_METHODS = 18


@dataclass(frozen=True)
class Method:
    """Runs of one model with the same arguments, apart from seed and files.

    Attributes:
        label: The model, and the arguments that distinguish it from others of the same model.
        runs: Its runs.
    """

    label: str
    runs: tuple[RecordedRun, ...]

    @cached_property
    def complete(self) -> tuple[RecordedRun, ...]:
        """The runs that were not interrupted; all runs if each was."""
        return tuple(run for run in self.runs if not run.interrupted) or self.runs

    def values(self, measure: str) -> list[float]:
        """Returns a measure of each complete run that has it."""
        found = (run.measures().get(measure) for run in self.complete)
        return [value for value in found if value is not None]

    def by_seed(self, measure: str) -> dict[int, float]:
        """Returns a measure of the complete runs, by seed; the first run of each seed counts."""
        found: dict[int, float] = {}
        for run in self.complete:
            value = run.measures().get(measure)
            if run.seed is not None and value is not None:
                found.setdefault(run.seed, value)
        return found

    def summary(self, measure: str) -> Summary:
        """Returns the mean and the spread of a measure."""
        return summarize(self.values(measure))

    def mean_matrix(self, name: str = "class_il") -> Matrix:
        """Returns the mean accuracy matrix of the complete runs; `class_il` or `task_il`."""
        matrices = [getattr(run, name) for run in self.complete]
        return [
            [average(column) for column in zip(*rows, strict=False)]
            for rows in zip(*matrices, strict=False)
            if all(rows)
        ]

    def over_tasks(self, name: str = "class_il") -> list[tuple[int, Summary]]:
        """Returns, per evaluation, the number of tasks seen and the mean accuracy on them."""
        matrices = [getattr(run, name) for run in self.complete]
        return [
            (len(rows[0]), summarize([average(row) for row in rows]))
            for rows in zip(*matrices, strict=False)
            if all(rows)
        ]


@dataclass(frozen=True)
class Benchmark:
    """The methods that were run on one dataset, the best first.

    Attributes:
        dataset: Its name.
        methods: The methods by decreasing Class-IL accuracy.
    """

    dataset: str
    methods: tuple[Method, ...]

    @property
    def runs(self) -> list[RecordedRun]:
        """All runs."""
        return [run for method in self.methods for run in method.runs]

    @property
    def num_tasks(self) -> int:
        """Number of tasks."""
        return max((run.num_tasks for run in self.runs), default=0)

    def best(self) -> "Benchmark":
        """Returns it with the best `MAX_METHODS` methods only."""
        return replace(self, methods=self.methods[:MAX_METHODS])

    def differences(self) -> dict[str, list[Any]]:
        """Returns the arguments in which methods differ, with their value per method.

        None stands for an argument that a method does not have.
        """
        configs = [method.runs[0].config for method in self.methods]
        names = [name for name in differing(configs) if name != "model"]
        return {name: [config.get(name) for config in configs] for name in names}

    def common(self) -> dict[str, Any]:
        """Returns the arguments that are the same in all runs, seed and files left out."""
        config = self.methods[0].runs[0].config
        differing_names = set(self.differences())
        return {
            k: v for k, v in config.items() if k not in differing_names | NOT_COMPARED | {"model"}
        }


def group(runs: Sequence[RecordedRun]) -> list[Benchmark]:
    """Groups runs by dataset and by method.

    Args:
        runs: Runs with at least one evaluation; others are left out.
    """
    by_dataset: dict[str, dict[str, list[RecordedRun]]] = {}
    for run in runs:
        if run.num_tasks:
            methods = by_dataset.setdefault(str(run.config.get("dataset", "unknown")), {})
            methods.setdefault(_identity(run.config), []).append(run)
    return [
        Benchmark(dataset, tuple(_labeled(list(methods.values()))))
        for dataset, methods in sorted(by_dataset.items())
    ]


def differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the names of the arguments that differ, without seed and files."""
    names = dict.fromkeys(name for config in configs for name in config)
    return [
        name
        for name in names
        if name not in NOT_COMPARED
        and any(config.get(name) != configs[0].get(name) for config in configs)
    ]


def _identity(config: Mapping[str, Any]) -> str:
    compared = {name: value for name, value in config.items() if name not in NOT_COMPARED}
    return json.dumps(compared, sort_keys=True)


def _labeled(methods: Sequence[Sequence[RecordedRun]]) -> list[Method]:
    """Returns methods with labels, the best first."""
    found = []
    for runs in methods:
        config = runs[0].config
        model = str(config.get("model", "unknown"))
        same_model = [r[0].config for r in methods if r[0].config.get("model") == model]
        details = [f"{name} {config.get(name)}" for name in differing(same_model)]
        found.append(Method(", ".join([model, *details]), tuple(runs)))
    return sorted(found, key=lambda method: -method.summary("class_il").mean)
