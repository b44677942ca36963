"""Signals on the command line: they end the process with one line and exit code 128 + n."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

from mammoth_compiled.exit_codes import SIGNAL

# Ctrl-C, and what schedulers, spot machines and closed terminals send.
SIGNALS = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]


def end_process(number: int, frame: Any) -> NoReturn:
    """Signal handler of the command line outside training.

    Raises:
        KeyboardInterrupt: After Ctrl-C.
        SystemExit: With exit code 128 + n after another signal n.
    """
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(SIGNAL + number)


@contextlib.contextmanager
def signals_end_process() -> Iterator[None]:
    """Installs `end_process` for all signals that are not ignored, as under nohup."""
    before = {n: signal.getsignal(n) for n in SIGNALS} if is_main_thread() else {}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, end_process)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def is_main_thread() -> bool:
    """Returns whether this is the main thread, the only one that may set signal handlers."""
    return threading.current_thread() is threading.main_thread()
