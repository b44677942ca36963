"""Sweep: the runs of a file, their order, and what is reported at the end."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mammoth_compiled.config.config_file import is_axis, read_config_file
from mammoth_compiled.config.experiments import list_arguments, resolve_experiments
from mammoth_compiled.console import say
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.files import lock, write_atomically
from mammoth_compiled.sweep.layout import Layout
from mammoth_compiled.sweep.runs import prepare, remove_checkpoints, report, run_trials
from mammoth_compiled.sweep.search import OptunaSearch
from mammoth_compiled.sweep.space import Range, Search
from mammoth_compiled.sweep.trial import Trial, make_trials
from mammoth_compiled.sweep.worker import Event

BEST = "best.yaml"


@dataclass(frozen=True)
class Sweep:
    """The runs of a file.

    Attributes:
        search: How to search.
        axes: By argument: the alternatives, or a range; "seed" is not among them.
        fixed: The other arguments, by name.
        words: Words of the command line that override arguments.
        directory: Where the run folders are.
    """

    search: Search
    axes: Mapping[str, Sequence[Any] | Range]
    fixed: Mapping[str, Any]
    words: Sequence[str]
    directory: Path

    @classmethod
    def from_file(cls, path: str, words: Sequence[str], directory: Path) -> "Sweep":
        """Reads a sweep.

        Args:
            path: The file, YAML.
            words: Words of the command line that override arguments.
            directory: Where the run folders are.

        Raises:
            ConfigError: If the file is invalid.
            RegistryError: If it names an unknown part.
        """
        values = read_config_file(path, keep=("sweep",))
        search = Search.from_section(values.pop("sweep", {}))
        ranges = {
            name: Range.from_mapping(name, value)
            for name, value in values.items()
            if isinstance(value, Mapping)
        }
        if ranges and search.method == "grid":
            raise ConfigError(
                f"{path}: {next(iter(ranges))} is a range, which a grid cannot run: give a list, "
                "or `method: random` or `tpe` in the section `sweep`"
            )
        plain = {name: value for name, value in values.items() if name not in ranges}
        lists = list_arguments(words, plain)
        axes: dict[str, Any] = {
            name: value
            for name, value in plain.items()
            if name != "seed" and is_axis(name, value, lists)
        }
        if search.method == "grid":
            return cls(search, axes, plain, words, directory)
        fixed = {name: value for name, value in plain.items() if name not in axes}
        if not axes and not ranges:
            raise ConfigError(f"{path}: nothing varies: give a list or a range for an argument")
        axes |= ranges
        runs = [resolve_experiments(words, {**fixed, **end(axes)}) for end in (first, last)]
        if not any(run.args.validation for run in runs[0]):
            raise ConfigError(
                f"{path}: a search would choose by test images: give `validation: 0.1` to hold out "
                "a tenth of the training images for it"
            )
        return cls(search, axes, fixed, words, directory)

    def describe(self) -> list[str]:
        """Returns what will run, in lines."""
        if self.search.method == "grid":
            return [trial.label for trial in self._grid()]
        seeds = self.fixed.get("seed")
        each = f", {len(seeds)} seeds each" if isinstance(seeds, list) else ""
        lines = [f"{self.search.trials} combinations by {self.search.method}{each}:"]
        return lines + [f"  {name}: {axis}" for name, axis in self.axes.items()]

    def _grid(self) -> list[Trial]:
        runs = [resolution.args for resolution in resolve_experiments(self.words, self.fixed)]
        for args in runs:
            args.resume = True
        return make_trials(runs, self.directory)

    def run(
        self,
        workers: int | None = None,
        plugins: Sequence[str] = (),
        together: int | None = None,
    ) -> int:
        """Runs everything that has not finished yet, reports, and returns the exit code.

        Args:
            workers: Runs at the same time; None for what `choose_layout` finds.
            plugins: Files and modules of `--import`.
            together: Runs that share a process and take turns; see `sweep.turns`.

        Raises:
            MammothError: If the directory cannot be written or another sweep uses it.
        """
        # Before the directory is created: an argument may be invalid.
        trials = self._grid() if self.search.method == "grid" else []
        with lock(self.directory, "its runs", "--out"):
            self.directory.mkdir(parents=True, exist_ok=True)
            if self.search.method == "grid":
                layout = prepare(trials, len(trials), workers, plugins, together)
                say(f"{len(trials)} runs in {self.directory}, {layout}")
                code = self._run(trials, len(trials), layout, plugins)
            else:
                code = self._search(workers, plugins, together)
            report(self.directory)
        return code

    def _search(self, workers: int | None, plugins: Sequence[str], together: int | None) -> int:
        engine = OptunaSearch(self.search, self.axes, self.fixed, self.words, self.directory)
        trials: Iterator[Trial] = engine.trials()
        one = resolve_experiments(self.words, {**self.fixed, **first(self.axes)})[0]
        layout = prepare([Trial(one.args, "")], None, workers, plugins, together)
        say(f"{self.search.trials} combinations in {self.directory}, {layout}")
        code = self._run(trials, None, layout, plugins, engine)
        values, value = engine.best()
        found = ", ".join(f"{name}={item}" for name, item in values.items())
        say(f"best: {found} ({100 * value:.2f} % on the validation images)", always=True)
        best = {k: v for k, v in {**self.fixed, **values}.items() if k != "validation"}
        path = self.directory / BEST
        write_atomically(path, yaml.safe_dump(best, sort_keys=False).encode())
        say(f"test it: python -m mammoth_compiled.run --config {path}", always=True)
        return code

    def _run(
        self,
        trials: Any,
        total: int | None,
        layout: Layout,
        plugins: Sequence[str],
        engine: OptunaSearch | None = None,
    ) -> int:
        def judge(trial: Trial, event: Event) -> bool:
            goes_on = engine is None or engine.judge(trial, event)
            if event.kind == "finished":
                remove_checkpoints(trial)
            return goes_on

        return run_trials(trials, layout, plugins, total, judge)


def first(axes: Mapping[str, Sequence[Any] | Range]) -> dict[str, Any]:
    """Returns one value of each axis."""
    return {n: axis.low if isinstance(axis, Range) else axis[0] for n, axis in axes.items()}


def last(axes: Mapping[str, Sequence[Any] | Range]) -> dict[str, Any]:
    """Returns the other end of each axis."""
    return {n: axis.high if isinstance(axis, Range) else axis[-1] for n, axis in axes.items()}
