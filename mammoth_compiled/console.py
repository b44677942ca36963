"""Console output: lines that do not break a progress bar, copied to the log of the run."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from mammoth_compiled.errors import OutputError

Print = Callable[[str], object]


class _Status:
    """Where the lines of this run go, and what happened to them.

    Attributes:
        printed: True after the first line.
        failure: Why a later line could not be printed, "" if all were.
        quiet: True to print only what is always printed.
        display: Prints above the progress display on the terminal, if there is one.
        copies: Functions that get every line, printed or not.
    """

    printed: bool = False
    failure: str = ""
    quiet: bool = False
    display: Print | None = None
    copies: tuple[Print, ...] = ()


_status = _Status()


def say(text: str, always: bool = False, shown: str | None = None) -> None:
    """Prints a line to standard output, above any progress display, and copies it to the log.

    If the first line of a run was printed but a later one fails, it and all others are dropped: a
    full disk under a log must not end the training. `output_failure` then gives the reason.

    Args:
        text: The line, or several.
        always: True to print it with `--quiet`, too.
        shown: What to print instead, for a terminal; the log gets `text`.

    Raises:
        OutputError: If the first line cannot be printed.
    """
    for copy in _status.copies:
        copy(text)
    if _status.failure or (_status.quiet and not always):
        return
    line = _encodable(text if shown is None else shown)
    try:
        if sys.stdout is None:
            raise OSError("it is closed")
        if _status.display is not None:
            _status.display(line)
        else:
            sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except (OSError, ValueError) as error:  # ValueError: the program closed it
        reason = getattr(error, "strerror", None) or str(error)
        if not _status.printed:
            raise OutputError(f"cannot write to standard output: {reason}") from error
        _status.failure = reason
    _status.printed = True


def begin_output() -> None:
    """Starts the output of a run: its first line must be printed."""
    _status.printed, _status.failure = False, ""


def output_failure() -> str:
    """Returns why a line after the first could not be printed, "" if all were."""
    return _status.failure


def output_state() -> dict[str, Any]:
    """Returns where lines go and what happened to them, for `set_output_state`."""
    return {name: getattr(_status, name) for name in _Status.__annotations__}


def set_output_state(state: dict[str, Any]) -> None:
    """Restores what `output_state` returned: several runs in a process have one each."""
    vars(_status).update(state)


@contextlib.contextmanager
def quiet(enabled: bool = True) -> Iterator[None]:
    """Prints only lines that are always printed; the log still gets all of them.

    Args:
        enabled: False to change nothing.
    """
    before, _status.quiet = _status.quiet, _status.quiet or enabled
    try:
        yield
    finally:
        _status.quiet = before


def print_above(display: Print | None) -> None:
    """Sends lines to a function that prints them above a progress display; None to the terminal."""
    _status.display = display


@contextlib.contextmanager
def copied_to(copy: Print) -> Iterator[None]:
    """Passes every line to a function as well.

    Args:
        copy: Gets the text; must not raise.
    """
    _status.copies = (*_status.copies, copy)
    try:
        yield
    finally:
        _status.copies = tuple(other for other in _status.copies if other is not copy)


def discard_output() -> None:
    """Discards what is left to be flushed to standard output, which would fail again at exit."""
    if sys.stdout is None:
        return
    try:
        descriptor = sys.stdout.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, descriptor)
        os.close(null)
    except (OSError, ValueError):  # not a file of the system
        pass


def _encodable(text: str) -> str:
    """Returns a text with escapes for what the encoding of standard output lacks."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
