"""Runs trials in processes of their own, several at a time."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from mammoth_compiled.signals import SIGNALS, is_main_thread
from mammoth_compiled.sweep import processes
from mammoth_compiled.sweep.layout import Layout
from mammoth_compiled.sweep.trial import Trial
from mammoth_compiled.sweep.worker import Assignment, Event, run_assigned

# Seconds until a signal is noticed.
SIGNAL_CHECK_S = 0.2


@dataclass
class _Running:
    """A trial that runs.

    Attributes:
        trial: The trial.
        process: Its process.
        connection: To the process.
        is_compiled: Whether its training step is compiled.
        has_ended: Whether it sent its last event.
    """

    trial: Trial
    process: Any
    connection: Connection
    is_compiled: bool = False
    has_ended: bool = False

    def waitables(self) -> list[Any]:
        """Returns the connection and the sentinel, which are ready if there is an event."""
        return [self.connection, self.process.sentinel]


@dataclass
class Pool:
    """Runs trials in worker processes.

    A trial that needs compiled code which another one is just compiling starts after it, so that
    the code is compiled once and found in the cache. A process that is killed fails its own trials
    alone. After Ctrl-C, SIGTERM or SIGHUP the trials that run stop after their current step, and no
    other one starts; a second signal ends them at once.

    Args:
        layout: Trials at the same time, and threads of each.
        on_event: Called with every trial and event; its result after a task says whether the trial
            goes on.
        plugins: Files and modules of `--import`.
    """

    layout: Layout
    on_event: Callable[[Trial, Event], bool]
    plugins: Sequence[str] = ()
    _running: list[_Running] = field(default_factory=list)
    _compiled: set[Any] = field(default_factory=set)
    _signals: list[int] = field(default_factory=list)
    _compiles: bool = False

    def run(self, trials: Iterable[Trial]) -> int:
        """Runs all trials and returns the signal that stopped them, 0 if none did.

        Args:
            trials: Taken one by one when a worker is free, so they may depend on earlier results.
        """
        source = iter(trials)
        waiting: list[Trial] = []
        is_exhausted = False
        with self._signals_handled():
            while True:
                while not is_exhausted and self._wants(len(waiting)):
                    trial = next(source, None)
                    if trial is None or self._signals:
                        is_exhausted = True
                    else:
                        waiting.append(trial)
                if self._signals:
                    waiting.clear()
                while group := self._next_group(waiting):
                    waiting = [trial for trial in waiting if trial not in group]
                    self._start(group)
                if not self._running:
                    return self._signals[0] if self._signals else 0
                # A set, because trials that share a process have the same sentinel.
                everything = {w for r in self._running for w in r.waitables()}
                ready = set(wait(everything, timeout=SIGNAL_CHECK_S))
                for running in [r for r in self._running if ready & set(r.waitables())]:
                    self._handle(running)

    @contextlib.contextmanager
    def _signals_handled(self) -> Iterator[None]:
        """Passes signals on to the trials, which do not get those of the terminal.

        A handler that raises could lose an event, and then a trial would wait for its answer.
        """

        def stop(number: int, frame: Any) -> None:
            self._signals.append(number)
            for process in {id(r.process): r.process for r in self._running}.values():
                if len(self._signals) == 1:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGINT)
                else:
                    process.kill()

        before = {n: signal.getsignal(n) for n in SIGNALS} if is_main_thread() else {}
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:  # as SIGHUP is under nohup
                signal.signal(number, stop)
        try:
            yield
        except BaseException:
            for running in self._running:  # they would wait for answers
                running.process.kill()
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _wants(self, num_waiting: int) -> bool:
        """Returns whether to take another trial; those that share a process start together."""
        has_room = len(self._running) + num_waiting < self.layout.workers
        return has_room and not (self.layout.together > 1 and self._running)

    def _next_group(self, waiting: Sequence[Trial]) -> list[Trial]:
        """Returns the trials to start in the next process, none if they have to wait."""
        if self.layout.together > 1:
            alike = [t for t in waiting if t.process_settings == waiting[0].process_settings]
            return [] if self._running else alike
        return next(([trial] for trial in waiting if self._may_start(trial)), [])

    def _may_start(self, trial: Trial) -> bool:
        if len(self._running) >= self.layout.workers:
            return False
        key = trial.compile_key
        compiling = any(r.trial.compile_key == key and not r.is_compiled for r in self._running)
        return key in self._compiled or not compiling

    def _start(self, group: Sequence[Trial]) -> None:
        if self._compiles:
            processes.warm_up_compiler()
        pipes = [processes.context().Pipe() for _ in group]
        assignments = []
        for trial, (_, theirs) in zip(group, pipes, strict=True):
            trial.folder.parent.mkdir(parents=True, exist_ok=True)
            assignments.append(Assignment(theirs, trial.args, f"{trial.folder}.stderr"))
        # A forked process has imported them already.
        plugins = () if processes.can_fork() else self.plugins
        process = processes.start(
            run_assigned,
            (assignments, plugins, self.layout),
            group[0].label,
            close=[*(ours for ours, _ in pipes), *(r.connection for r in self._running)],
        )
        for trial, (ours, theirs) in zip(group, pipes, strict=True):
            theirs.close()
            self._running.append(_Running(trial, process, ours))
        if self._signals:  # one that came while it was started
            os.kill(process.pid, signal.SIGINT)

    def _handle(self, running: _Running) -> None:
        """Reads the events of a trial, and removes it if it has ended."""
        with contextlib.suppress(EOFError, OSError):  # its process was killed
            while not running.has_ended and running.connection.poll():
                self._answer(running, running.connection.recv())
        if not running.has_ended and running.process.exitcode is None:
            return
        if not any(r.process is running.process for r in self._running if r is not running):
            running.process.join()
        if not running.has_ended:
            code = running.process.exitcode
            how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            kind = "killed" if code < 0 else "failed"
            self.on_event(running.trial, Event(kind, value=f"its process {how}"))
        running.connection.close()
        self._running.remove(running)

    def _answer(self, running: _Running, event: Event) -> None:
        goes_on = self.on_event(running.trial, event)
        running.has_ended = event.kind in ("finished", "stopped", "failed")
        if event.kind in ("compiled", "task", "finished"):
            running.is_compiled = True
            self._compiled.add(running.trial.compile_key)
        self._compiles |= event.kind == "compiled" and bool(event.value)
        if event.kind == "task":
            running.connection.send(goes_on)
