"""Console output: plain lines that do not break a progress bar."""

import os
import sys

from tqdm import tqdm

from mammoth_compiled.errors import OutputError


class _Status:
    """What happened to the lines of this run.

    Attributes:
        printed: True after the first line.
        failure: Why a later line could not be printed, "" if all were.
    """

    printed = False
    failure = ""


_status = _Status()


def say(text: str) -> None:
    """Prints a line to standard output, above any progress bar.

    If the first line of a run was printed but a later one fails, it and all others are dropped: a
    full disk under a log must not end the training. `output_failure` then gives the reason.

    Raises:
        OutputError: If the first line cannot be printed.
    """
    if _status.failure:
        return
    try:
        if sys.stdout is None:
            raise OSError("it is closed")
        tqdm.write(_encodable(text), file=sys.stdout)
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
