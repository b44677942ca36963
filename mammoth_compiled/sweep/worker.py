"""The process of one trial."""

import contextlib
import os
import signal
import sys
import time
import traceback
import warnings
from argparse import Namespace
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mammoth_compiled.config import RunConfig
from mammoth_compiled.console import begin_output, say
from mammoth_compiled.device import get_device
from mammoth_compiled.engine import Observer, Run
from mammoth_compiled.engine.numerics import numerics
from mammoth_compiled.errors import MammothError
from mammoth_compiled.files import lock
from mammoth_compiled.locks import ORPHANS_S
from mammoth_compiled.metrics import average
from mammoth_compiled.plugins import import_plugin
from mammoth_compiled.signals import SIGNALS, signals_end_process
from mammoth_compiled.sweep.layout import Layout
from mammoth_compiled.sweep.processes import accept_signals
from mammoth_compiled.sweep.turns import TurnObserver, Turns
from mammoth_compiled.types import Evaluation

# By this step of the first task everything that recurs in training is compiled.
COMPILED_STEP = 30


class Event(NamedTuple):
    """What a trial tells.

    Attributes:
        kind: "compiled" once no other trial needs to wait for the code that trials share, "task"
            after each task, "finished", "stopped" after a signal or if the sweep asked for it,
            "failed", "killed" by a signal that the process could not handle.
        task: Tasks finished.
        value: Of "compiled", whether there is such code; after a task the average class-IL accuracy
            in [0, 1]; the message of a failure or kill.
    """

    kind: str
    task: int = 0
    value: Any = None


class TrialObserver(Observer):
    """Tells the sweep how a trial is doing, and stops it if the sweep says so.

    Args:
        connection: Sends events; receives a boolean after each task: whether to go on.
        layout: How many trials run at the same time, which the results record.
    """

    def __init__(self, connection: Connection, layout: Layout) -> None:
        self._connection = connection
        self._layout = layout
        self._steps = 0
        self._has_announced = False

    def begin_run(self, run: Run) -> None:
        """Records how the trial shares the machine."""
        run.results.notes["side_by_side"] = self._layout._asdict()

    def begin_task(self, run: Run) -> None:
        """Tells that nothing is compiled first, because the code is in the cache or not needed."""
        if not run.compute.compile or run.compute.was_compiled_before:
            self._announce(run)

    def end_step(self, run: Run, loss: Any, num_images: int) -> None:
        """Counts steps, to know when the training step is compiled."""
        self._steps += 1
        if self._steps == COMPILED_STEP:
            self._announce(run)

    def _announce(self, run: Run) -> None:
        if not self._has_announced:
            with contextlib.suppress(OSError):  # the sweep was killed
                self._connection.send(Event("compiled", value=run.compute.compile))
        self._has_announced = True

    def end_task(self, run: Run, evaluation: Evaluation) -> None:
        """Sends the accuracy and waits for the answer."""
        done = run.task + 1
        try:
            self._connection.send(Event("task", done, average(evaluation.class_il)))
            goes_on = self._connection.recv()
        except (EOFError, OSError):  # the sweep was killed
            goes_on = False
        if not goes_on and done < run.num_tasks:
            run.stop_signal = 2  # ends like Ctrl-C, with partial results


class Assignment(NamedTuple):
    """A trial for a process to run.

    Attributes:
        connection: To the sweep.
        args: All arguments; continues what is in the run folder.
        errors: File that collects what libraries print, in a process with several trials that of
            the first.
    """

    connection: Connection
    args: Namespace
    errors: str


def run_assigned(assignments: Sequence[Assignment], plugins: Sequence[str], layout: Layout) -> None:
    """Runs trials in this process, which ends afterwards.

    Args:
        assignments: The trials; several take turns.
        plugins: Files and modules of `--import` that this process does not have yet.
        layout: Gives the number of threads on the CPU.
    """
    os.setsid()  # the sweep passes signals on, so that each arrives once
    errors = assignments[0].errors
    _redirect_output(errors)
    begin_output()
    torch.set_num_threads(layout.threads)
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    with signals_end_process():
        if len(assignments) > 1:
            _take_turns(assignments, plugins, layout, errors)
        else:
            _run_one(assignments[0], plugins, layout, errors)
    sys.stderr.flush()
    if Path(errors).stat().st_size == 0:
        Path(errors).unlink()


def _run_one(assignment: Assignment, plugins: Sequence[str], layout: Layout, errors: str) -> None:
    def train() -> Event:
        accept_signals()
        return _train(assignment, plugins, layout)

    _send(assignment, _outcome(train, errors))


def _outcome(train: Callable[[], Event], errors: str) -> Event:
    """Returns how a trial ended."""
    try:
        return train()
    except MammothError as error:
        return Event("failed", value=" ".join(str(error).split()))
    except (KeyboardInterrupt, SystemExit):
        return Event("stopped")
    except BaseException as error:  # of user code
        sys.stderr.write(traceback.format_exc())
        return Event("failed", value=f"{type(error).__name__}: {error} (details in {errors})")


def _send(assignment: Assignment, event: Event) -> None:
    with contextlib.suppress(OSError):  # the sweep was killed
        assignment.connection.send(event)


def _train(
    assignment: Assignment,
    plugins: Sequence[str],
    layout: Layout,
    observers: Sequence[Observer] = (),
) -> Event:
    from mammoth_compiled.training import run_experiment

    for plugin in plugins:
        import_plugin(plugin)
    _wait_for_orphan(Path(assignment.args.out))
    own = TrialObserver(assignment.connection, layout)
    results = run_experiment(assignment.args, [own, *observers])
    return Event("stopped" if results.interrupted else "finished", len(results.class_il))


def _wait_for_orphan(folder: Path) -> None:
    """Waits for a process of a killed sweep that trains the same run; it stops after its step.

    If it does not, the run will fail to lock its folder, with a message.
    """
    end = time.monotonic() + ORPHANS_S
    while time.monotonic() < end:
        with contextlib.suppress(MammothError), lock(folder, "its results", "--out"):
            return
        time.sleep(0.05)


def _take_turns(
    assignments: Sequence[Assignment], plugins: Sequence[str], layout: Layout, errors: str
) -> None:
    """Runs several trials in threads; a signal stops each after its current step."""
    runs: list[Run] = []
    stopped: list[int] = []

    def stop(number: int, frame: Any) -> None:
        stopped.append(number)
        for run in runs:
            run.stop_signal = signal.SIGINT  # ends with partial results, and nothing else

    for number in SIGNALS:
        signal.signal(number, stop)
    accept_signals()
    config = RunConfig.from_namespace(assignments[0].args).compute
    device = get_device(config.device)
    turns = Turns(device)

    def member(assignment: Assignment) -> Callable[[], None]:
        def train() -> Event:
            observer = TurnObserver(turns, runs, lambda: signal.SIGINT if stopped else None)
            # A plugin is imported by the first trial, for all.
            return _train(
                assignment, plugins if assignment is assignments[0] else (), layout, [observer]
            )

        return lambda: _send(assignment, _outcome(train, errors))

    # What a run sets for itself is then the same before and after.
    with numerics(device, config.precision, config.deterministic):
        turns.run([member(assignment) for assignment in assignments])


def _redirect_output(errors: str) -> None:
    """Sends standard error to a file; console lines of the run are in the log of its folder."""
    for descriptor, path, flags in (
        (1, os.devnull, os.O_WRONLY),
        (2, errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    ):
        opened = os.open(path, flags, 0o644)
        os.dup2(opened, descriptor)
        os.close(opened)


def _show_warning(message: Any, category: Any, *_: Any) -> None:
    """Prints a warning as a line of the run, which its log then has."""
    say(f"{category.__name__}: {message}")
