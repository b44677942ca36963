"""Signals on the command line: they end the process with one line and exit code 128 + n."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from mammoth_compiled.console import begin_output, discard_output, output_failure
from mammoth_compiled.errors import ConfigError, MammothError, OutputError
from mammoth_compiled.exit_codes import ERROR, INTERRUPTED, NO_OUTPUT, SIGNAL, SUCCESS
from mammoth_compiled.launch import launched_rank

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


def exit_code(command: Callable[[], int]) -> int:
    """Runs a command and returns its exit code; if it fails, prints one line to standard error.

    The exit code is 2 after an error, 1 if standard output cannot be written, and 128 + n after
    signal n.

    Args:
        command: Returns its exit code.

    Raises:
        SystemExit: With 128 + n, after a signal n other than Ctrl-C.
    """
    with signals_end_process():
        try:
            return command()
        except MammothError as error:
            # All ranks find the same mistakes in arguments; one of them is enough to say so.
            if not (launched_rank() and isinstance(error, ConfigError)):
                _report(f"error: {' '.join(str(error).split())}")
            return NO_OUTPUT if isinstance(error, OutputError) else ERROR
        except KeyboardInterrupt:
            _report("interrupted")
            return INTERRUPTED


def end_command(command: Callable[[], int]) -> NoReturn:
    """Runs a command that prints with `console.say`, and ends the process with its exit code.

    Standard output that could not be written makes an exit code of 1, unless something else failed.

    Args:
        command: Returns its exit code.
    """

    def run() -> int:
        code = command()
        if output_failure() and code == SUCCESS:
            raise OutputError(f"cannot write to standard output: {output_failure()}")
        return code

    begin_output()
    code = exit_code(run)
    if code == NO_OUTPUT or output_failure():
        discard_output()
    sys.exit(code)


def _report(line: str) -> None:
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):  # nowhere left to say it
            sys.stderr.write(f"{line}\n")


def is_main_thread() -> bool:
    """Returns whether this is the main thread, the only one that may set signal handlers."""
    return threading.current_thread() is threading.main_thread()
