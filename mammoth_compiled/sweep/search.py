"""Draws combinations of arguments with Optuna and tells it what they reached."""

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mammoth_compiled.config.experiments import resolve_experiments
from mammoth_compiled.errors import ConfigError, MammothError
from mammoth_compiled.files import write_atomically
from mammoth_compiled.results import Results
from mammoth_compiled.sweep.space import Range, Search
from mammoth_compiled.sweep.trial import Trial, make_trials
from mammoth_compiled.sweep.worker import Event

JOURNAL = "optuna.log"


class OptunaSearch:
    """Random search or TPE over the arguments of a sweep.

    A combination is judged by the mean of its seeds. The study is kept in the sweep's directory:
    combinations that were running when the sweep ended are run again, and continue.

    Args:
        search: How to search.
        axes: By argument: the alternatives, or a range.
        fixed: The other arguments, by name; a list of seeds is run for every combination.
        words: Words of the command line that override arguments.
        directory: Directory of the sweep.

    Raises:
        ConfigError: If Optuna is not installed.
    """

    def __init__(
        self,
        search: Search,
        axes: Mapping[str, Sequence[Any] | Range],
        fixed: Mapping[str, Any],
        words: Sequence[str],
        directory: Path,
    ) -> None:
        try:
            import optuna
        except ImportError as error:
            raise ConfigError(
                f"sweep: method {search.method} needs Optuna: pip install 'mammoth-compiled[sweep]'"
            ) from error
        from optuna.storages.journal import JournalFileBackend

        self._optuna = optuna
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        _remove_torn_line(directory / JOURNAL)
        pruner = optuna.pruners.MedianPruner() if search.pruning == "median" else None
        self._study = optuna.create_study(
            study_name="sweep",
            storage=optuna.storages.JournalStorage(
                JournalFileBackend(str(directory / JOURNAL), _Unlocked())
            ),
            direction="maximize",
            load_if_exists=True,
            pruner=pruner or optuna.pruners.NopPruner(),
        )
        self._search = search
        self._axes = axes
        self._fixed = fixed
        self._words = words
        self._directory = directory
        # By label of a trial: the number of its combination.
        self._numbers: dict[str, int] = {}
        self._open: dict[int, dict[str, Trial]] = {}
        self._leaders: dict[int, str] = {}
        self._scores: dict[int, list[float | None]] = {}
        # Combinations with a run that was stopped or killed; the continued sweep judges them.
        self._unfinished: set[int] = set()

    def trials(self) -> Iterator[Trial]:
        """Yields the runs of every combination: those of an ended sweep first, then new ones."""
        states = self._optuna.trial.TrialState
        unfinished = self._study.get_trials(deepcopy=False, states=(states.RUNNING,))
        for trial in unfinished:
            # What it has drawn stays; it may have been killed before it drew the rest.
            yield from self._combination(self._optuna.trial.Trial(self._study, trial._trial_id))
        for _ in range(len(self._study.trials), self._search.trials):
            yield from self._combination(self._study.ask())

    def _combination(self, trial: Any) -> Iterator[Trial]:
        values = {name: self._draw(trial, name) for name in self._axes}
        yield from self._members(trial.number, values)

    def _sampler(self, number: int, name: str) -> Any:
        """Returns what draws a value; with seeds of its own a continued search draws the same."""
        samplers = self._optuna.samplers
        seed = random.Random(f"{self._search.seed} {number} {name}").getrandbits(32)
        if self._search.method == "random":
            return samplers.RandomSampler(seed=seed)
        return samplers.TPESampler(seed=seed, constant_liar=True)

    def _draw(self, trial: Any, name: str) -> Any:
        self._study.sampler = self._sampler(trial.number, name)
        axis = self._axes[name]
        if not isinstance(axis, Range):
            return trial.suggest_categorical(name, list(axis))
        if axis.is_integer:
            step = int(axis.step or 1)
            return trial.suggest_int(name, int(axis.low), int(axis.high), step=step, log=axis.log)
        return trial.suggest_float(name, axis.low, axis.high, step=axis.step, log=axis.log)

    def _members(self, number: int, values: Mapping[str, Any]) -> Iterator[Trial]:
        """Yields the runs of one combination, until it is pruned."""
        runs = [r.args for r in resolve_experiments(self._words, {**self._fixed, **values})]
        for args in runs:
            args.resume = True
        members = make_trials(runs, self._directory, [*self._axes, "seed"])
        self._open[number] = {member.label: member for member in members}
        self._leaders[number] = members[0].label
        self._scores[number] = []
        self._numbers |= dict.fromkeys(self._open[number], number)
        for member in members:
            if number in self._open:
                yield member

    def judge(self, trial: Trial, event: Event) -> bool:
        """Tells Optuna how a run is doing; returns whether it goes on."""
        number = self._numbers[trial.label]
        members = self._open.get(number, {})
        if event.kind == "task":
            return not self._is_pruned(number, trial, event)
        if event.kind in ("stopped", "killed"):
            self._unfinished.add(number)
        elif event.kind in ("finished", "failed"):
            members.pop(trial.label, None)
            results = trial.finished() if event.kind == "finished" else None
            value = None if results is None else score(results, self._search.metric)
            self._scores[number].append(value)
            if not members:
                self._tell(number)
        return True

    def _is_pruned(self, number: int, trial: Trial, event: Event) -> bool:
        """Reports an accuracy; only the first run of a combination decides whether it goes on."""
        if self._search.pruning == "none" or trial.label != self._leaders[number]:
            return False
        study_trial = self._optuna.trial.Trial(self._study, self._study.trials[number]._trial_id)
        study_trial.report(event.value, event.task)
        if not study_trial.should_prune():
            return False
        self._study.tell(number, state=self._optuna.trial.TrialState.PRUNED)
        self._open.pop(number)
        return True

    def _tell(self, number: int) -> None:
        if number in self._unfinished or number not in self._open:  # or pruned
            return
        scores = [value for value in self._scores[number] if value is not None]
        if len(scores) == len(self._scores[number]):
            self._study.tell(number, sum(scores) / len(scores))
        else:  # a seed failed, for instance because its loss was not finite
            self._study.tell(number, state=self._optuna.trial.TrialState.FAIL)

    def best(self) -> tuple[dict[str, Any], float]:
        """Returns the best combination and its mean score in [0, 1].

        Raises:
            MammothError: If no combination finished.
        """
        try:
            best = self._study.best_trial
        except ValueError as error:
            raise MammothError(
                "sweep: no combination finished, so there is no best one: log.txt in the folder "
                "of each run says why"
            ) from error
        return dict(best.params), float(best.value)


class _Unlocked:
    """Replaces the lock of Optuna's journal, which a killed process would leave locked.

    The sweep holds a lock of its directory, which the system releases.
    """

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def _remove_torn_line(journal: Path) -> None:
    """Removes an incomplete last line, which a kill or a full disk can leave.

    Raises:
        MammothError: If the journal cannot be written.
    """
    try:
        content = journal.read_bytes() if journal.exists() else b""
    except OSError as error:
        raise MammothError(f"cannot read {journal}: {error}") from error
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        write_atomically(journal, whole)


def score(results: Results, metric: str) -> float:
    """Returns what a search maximizes: the final average accuracy in [0, 1]."""
    return results.accuracy[metric]
