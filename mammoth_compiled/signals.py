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

# Characters of a message; one that quotes hostile input may be longer.
MAX_MESSAGE = 1000


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
        command: Returns its exit code; prints with `say`.

    Raises:
        SystemExit: With 128 + n, after a signal n other than Ctrl-C.
    """
    begin_output()
    code = SUCCESS
    try:
        with signals_end_process():
            code = _run(command)
    finally:
        if code == NO_OUTPUT or output_failure():
            discard_output()
    return code


def _run(command: Callable[[], int]) -> int:
    try:
        code = command()
        if output_failure() and code == SUCCESS:
            raise OutputError(f"cannot write to standard output: {output_failure()}")
        return code
    except MammothError as error:
        # All ranks find the same mistakes in arguments; one of them is enough to say so.
        if not (isinstance(error, ConfigError) and launched_rank()):
            _report(f"error: {_bounded(' '.join(str(error).split()))}")
        return NO_OUTPUT if isinstance(error, OutputError) else ERROR
    except KeyboardInterrupt:
        _report("interrupted")
        return INTERRUPTED


def _bounded(text: str) -> str:
    """Returns a message, cut in the middle if it quotes something very long."""
    half = MAX_MESSAGE // 2
    return text if len(text) <= MAX_MESSAGE else f"{text[:half]} ... {text[-half:]}"


def _report(line: str) -> None:
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):  # nowhere left to say it
            sys.stderr.write(f"{line}\n")


def is_main_thread() -> bool:
    """Returns whether this is the main thread, the only one that may set signal handlers."""
    return threading.current_thread() is threading.main_thread()
