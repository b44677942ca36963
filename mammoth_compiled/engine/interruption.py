"""Stops a run after its current step when a signal arrives."""

import contextlib
import os
import signal
from typing import Any

from mammoth_compiled.engine.observer import Run
from mammoth_compiled.signals import SIGNALS, end_process, is_main_thread


class Interruption:
    """Defers signals during a run until its current step is complete.

    Use it as a context manager. The first signal sets `run.stop_signal`. It also restores the
    handlers from before, or the default ones on the command line, so that a second signal acts at
    once. Outside the main thread, and where user code has its own handler, nothing is deferred.

    Args:
        run: The run to stop.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if not is_main_thread():
            return
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if handler in (signal.SIG_DFL, signal.default_int_handler, end_process):
                self._before[number] = handler
                signal.signal(number, self._stop)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:
            # A DataLoader worker. Ctrl-C reaches it too, but the run still needs its batches.
            if number != signal.SIGINT:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            return
        self._run.stop_signal = number
        for other, handler in self._before.items():
            signal.signal(other, signal.SIG_DFL if handler is end_process else handler)
        name = signal.Signals(number).name
        # Not `print`: the signal may have interrupted one.
        with contextlib.suppress(OSError):
            message = f"{name}: stopping after the current step; a second signal ends at once\n"
            os.write(2, message.encode())
