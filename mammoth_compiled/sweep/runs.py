"""Runs several trials side by side and reports on them."""

import shutil
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mammoth_compiled.config import RunConfig
from mammoth_compiled.console import say
from mammoth_compiled.engine.checkpoint_files import CHECKPOINTS, differences
from mammoth_compiled.engine.run_folder import (
    earlier_folders,
    new_folder,
    read_config,
    runs_directory,
)
from mammoth_compiled.errors import ConfigError, MammothError
from mammoth_compiled.exit_codes import ERROR, SIGNAL, SUCCESS
from mammoth_compiled.files import lock, write_atomically
from mammoth_compiled.locks import remove_stale
from mammoth_compiled.report import read_runs, render
from mammoth_compiled.report.document import grouped
from mammoth_compiled.report.leaderboard_text import leaderboard_text
from mammoth_compiled.sweep.layout import Layout, choose_layout
from mammoth_compiled.sweep.pool import Pool
from mammoth_compiled.sweep.processes import share_images, warm_up_compiler
from mammoth_compiled.sweep.trial import Trial, make_trials
from mammoth_compiled.sweep.worker import Event

# Asked after each task of a trial: whether it goes on.
Judge = Callable[[Trial, Event], bool]


@dataclass
class Progress:
    """Prints what the trials do and remembers how they ended.

    Attributes:
        total: Number of trials, None if it is not known.
        finished: Labels of the trials that finished.
        failed: Those that failed, with the reason.
    """

    total: int | None
    finished: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def __call__(self, trial: Trial, event: Event) -> None:
        """Notes an event."""
        if event.kind == "task":
            say(f"{trial.label}: after task {event.task} {100 * event.value:.2f} % Class-IL")
        elif event.kind in ("failed", "killed"):
            self.failed[trial.label] = event.value
            say(f"{trial.label}: failed: {event.value}", always=True)
        elif event.kind == "finished":
            self.finished.append(trial.label)
            of = "" if self.total is None else f" of {self.total}"
            say(f"{trial.label}: finished ({len(self.finished)}{of})")


def run_trials(
    trials: Iterable[Trial],
    layout: Layout,
    plugins: Sequence[str] = (),
    total: int | None = None,
    judge: Judge = lambda trial, event: True,
) -> int:
    """Runs trials and returns the exit code.

    Trials whose results are in their run folder are skipped, others continue from their newest
    checkpoint if they were started with `resume`.

    Args:
        trials: The trials, taken when a worker is free.
        layout: Trials at the same time, and threads of each.
        plugins: Files and modules of `--import`.
        total: Number of trials, for the console.
        judge: Told of every event; its result after a task says whether the trial goes on.
    """
    progress = Progress(total)

    def on_event(trial: Trial, event: Event) -> bool:
        progress(trial, event)
        return judge(trial, event)

    def pending() -> Iterable[Trial]:
        for trial in trials:
            if trial.args.resume and trial.finished():
                remove_stale(trial.folder)  # it may have been killed after its results
                on_event(trial, Event("finished"))
            else:
                yield trial

    stopped = Pool(layout, on_event, plugins).run(pending())
    if stopped:
        return SIGNAL + stopped
    return ERROR if progress.failed else SUCCESS


def prepare(
    trials: Sequence[Trial],
    total: int | None,
    workers: int | None,
    plugins: Sequence[str],
    together: int | None = None,
) -> Layout:
    """Loads what trials share and returns how they share the machine.

    Args:
        trials: Trials to come, all or one of each kind.
        total: Number of trials; None if it is not known.
        workers: Trials at the same time, if the user gave it.
        plugins: Files and modules of `--import`.
        together: Trials that share a process, if the user asked for it.
    """
    left = [trial for trial in trials if not (trial.args.resume and trial.finished())]
    if not left:
        return Layout(1, 1)
    share_images(left)
    if any(trial.args.compile == "on" for trial in left):
        warm_up_compiler()
    # As if none had finished: the results depend on the threads that a run has.
    return choose_layout(left[0], total, workers, plugins, together)


def report(directory: str | Path) -> None:
    """Prints the leaderboard of all runs in a directory and writes its report."""
    try:
        runs = read_runs([directory])
        benchmarks = grouped(runs)
    except MammothError:  # none has finished a task
        return
    for benchmark in benchmarks:
        say(leaderboard_text(benchmark), always=True)
    path = Path(directory) / "report.html"
    write_atomically(path, render(runs, Path(directory).name).encode())
    say(f"report: {path}", always=True)


def remove_checkpoints(trial: Trial) -> None:
    """Deletes the checkpoints of a finished trial that only served to resume it."""
    if trial.args.savecheck is None:
        shutil.rmtree(trial.folder / CHECKPOINTS, ignore_errors=True)


def run_side_by_side(
    runs: Sequence[Namespace],
    workers: int | None = None,
    plugins: Sequence[str] = (),
    together: int | None = None,
) -> int:
    """Runs several configurations, or seeds of one, reports on them and returns the exit code.

    Args:
        runs: All arguments of every run; `out` of the first is the folder of all.
        workers: Runs at the same time; None for what `choose_layout` finds.
        plugins: Files and modules of `--import`.
        together: Runs that share a process and take turns; see `sweep.turns`.

    Raises:
        MammothError: If the runs share an output, or their folder cannot be written.
    """
    directory = _directory(runs)
    trials = make_trials(runs, directory)
    with lock(directory, "its runs", "--out"):
        layout = prepare(trials, len(trials), workers, plugins, together)
        say(f"{len(trials)} runs in {directory}, {layout}")
        code = run_trials(trials, layout, plugins, len(trials))
        report(directory)
    return code


def _directory(runs: Sequence[Namespace]) -> Path:
    """Returns the folder of several runs: `--out`, the one that `--resume` finds, or a new one."""
    args = runs[0]
    if (args.out or runs_directory()) == "off":
        raise ConfigError("several runs need a folder for their results: give --out DIR")
    if args.out is not None:
        return Path(args.out)
    config = RunConfig.from_namespace(Namespace(**{**vars(args), "seed": None}))
    parent = Path(runs_directory())
    if args.resume and parent.is_dir():
        for path in earlier_folders(config, parent):
            if _has_runs(path, runs):
                return path
    return new_folder(config, parent)


def _has_runs(directory: Path, runs: Sequence[Namespace]) -> bool:
    """Returns whether a folder has some of these runs, and none of another configuration."""
    trials = make_trials(runs, directory)
    saved = [(trial, config) for trial in trials if (config := read_config(trial.folder))]
    others = [t for t, config in saved if differences(RunConfig.from_namespace(t.args), config)]
    return bool(saved) and not others
