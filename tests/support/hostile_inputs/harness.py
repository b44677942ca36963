"""Runs hostile inputs in forked processes and judges what they do.

A process for every input would import torch each time, which takes seconds; a fork takes
milliseconds. Inputs that are read quickly share a process, one after another.
"""

import contextlib
import hashlib
import os
import pickle
import re
import resource
import select
import shutil
import signal
import stat
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from mammoth_compiled.errors import MammothError

# Outcomes, and what is wrong with an input that has one of the bad ones.
GOOD = ("clear errors", "accepted")
BAD = (
    *("tracebacks", "aborts", "hangs", "wrongly accepted", "wrongly refused", "unclear messages"),
    *("half-written", "stale temporaries"),
)
REFUSED, ACCEPTED, EITHER = "refused", "accepted", "either"
MAX_MESSAGE = 1200
# Beyond what the process has mapped already; a manifest that allocates more is hostile, too.
MEMORY = 8 * 2**30
TEMPORARY = re.compile(r"\..+\.(tmp|new|old|lock)")
COMMANDS = ("run", "sweep", "report", "compat", "export")


@dataclass(frozen=True)
class Input:
    """Something hostile.

    Attributes:
        kind: What is hostile: "arguments", "checkpoints".
        what: Description.
        call: Reads it, in an empty working directory; returns an exit code, None for 0.
        expected: `REFUSED`, `ACCEPTED` or `EITHER`.
        write: Prepares the working directory.
        check: Returns what is wrong with the files afterwards, "" if nothing is.
        stdout: File that standard output goes to.
        timeout: Seconds.
        shares: Whether the process may read other inputs before and after.
        ends: A signal that may end it, with exit code 128 + n and at most two lines.
    """

    kind: str
    what: str
    call: Callable[[], Any]
    expected: str = REFUSED
    write: Callable[[], Any] | None = None
    check: Callable[[], str] | None = None
    stdout: str = ""
    timeout: float = 300
    shares: bool = False
    ends: int = 0


@dataclass(frozen=True)
class Verdict:
    """What an input did.

    Attributes:
        kind: That of the input.
        what: Likewise.
        outcome: One of `GOOD` or `BAD`.
        detail: The message, or the end of the traceback.
    """

    kind: str
    what: str
    outcome: str
    detail: str = ""

    @property
    def is_bad(self) -> bool:
        """Whether something is wrong."""
        return self.outcome in BAD


def command(name: str, *words: object) -> Callable[[], int]:
    """Returns a function that runs a command of the package as `python -m` does."""
    assert name in COMMANDS

    def call() -> int:
        module = import_module(
            "mammoth_compiled.run" if name == "run" else f"mammoth_compiled.{name}.__main__"
        )
        sys.argv = [f"mammoth_compiled.{name}", *map(str, words)]
        return module.main() or 0

    return call


def start(*words: str) -> int:
    """Starts a command line in a process group of its own, and returns the number of the process.

    What it prints goes to `log` above the working directory.

    Args:
        words: As for `command`.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setsid()
            os.close(reading)
            os.close(writing)
            _forget_fork_server()
            for descriptor in (1, 2):
                log = os.open("../log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(log, descriptor)
            code = command(*words)()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 0
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)
    os.close(writing)
    os.read(reading, 1)  # ends when the group exists, which is then there to be killed
    os.close(reading)
    return child


def _forget_fork_server() -> None:
    """Lets a forked process start a fork server, because it cannot wait for that of its parent."""
    server: Any = forkserver._forkserver
    server.__init__()


def judge(inputs: Sequence[Input]) -> Iterator[Verdict]:
    """Yields the verdict of every input, in their order."""
    at = 0
    while at < len(inputs):
        end = at + 1
        while inputs[at].shares and end < len(inputs) and inputs[end].shares:
            end += 1
        for verdict in _fork(inputs[at:end]):
            at += 1
            yield verdict


def _fork(inputs: Sequence[Input]) -> Iterator[Verdict]:
    """Yields verdicts of a process; if it hangs or dies, that of the last input is the reason."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _child(inputs, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        for item in inputs:
            if not select.select([stream], [], [], item.timeout)[0]:
                yield Verdict(item.kind, item.what, "hangs", f"after {item.timeout} s")
                break
            try:
                yield pickle.load(stream)
            except EOFError:
                status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                yield Verdict(item.kind, item.what, "aborts", f"exit status {status}")
                return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _child(inputs: Sequence[Input], writing: int) -> None:
    """Runs inputs in this process, which ends afterwards."""
    told = os.dup(2)  # of what goes wrong in this file; inputs have a standard error of their own
    try:
        os.setsid()
        _forget_fork_server()
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY, resource.RLIM_INFINITY))
        with os.fdopen(writing, "wb") as stream:
            for item in inputs:
                pickle.dump(_run(item), stream)
                stream.flush()
    except BaseException:
        os.write(told, traceback.format_exc().encode())
    finally:
        os._exit(0)


def _run(item: Input) -> Verdict:
    base = Path(tempfile.mkdtemp(prefix="hostile-"))
    directory, log = base / "cwd", base / "stderr"
    directory.mkdir()
    os.chdir(directory)
    try:
        if item.write is not None:
            item.write()
        before = snapshot(directory)
        code = _call(item, log)
        text = log.read_text(errors="replace")
        after = snapshot(directory)
        outcome, detail = _outcome(item, code, text, before, after)
        return Verdict(item.kind, item.what, outcome, detail)
    finally:
        os.chdir("/")
        shutil.rmtree(base, ignore_errors=True)


def _call(item: Input, log: Path) -> int:
    """Calls an input as a process of its own would, and returns the exit code."""
    for descriptor, path in ((1, item.stdout or os.devnull), (2, str(log))):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 (as at the start of a process)
    sys.stderr = open(2, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115
    try:
        returned = item.call()
        code = returned if isinstance(returned, int) else 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except MammothError as error:  # of a function, which a program would print
        sys.stderr.write(f"error: {error}\n")
        code = 2
    except BaseException:
        traceback.print_exc()
        code = 1
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        sys.stderr.write("Exception ignored on flushing sys.stdout\n")
        code = 120
    sys.stderr.flush()
    return code


def _outcome(
    item: Input, code: int, text: str, before: dict[str, str], after: dict[str, str]
) -> tuple[str, str]:
    lines = text.strip().splitlines()
    last = lines[-1] if lines else ""
    stale = [name for name in after if TEMPORARY.fullmatch(Path(name).name) and name not in before]
    if "Traceback (most recent call last)" in text:
        return "tracebacks", "\n".join(lines[-12:])
    if stale:
        return "stale temporaries", ", ".join(stale)
    if code == 0:
        if item.expected == REFUSED:
            return "wrongly accepted", text[-300:]
        wrong = item.check() if item.check is not None else ""
        return ("half-written", wrong) if wrong else ("accepted", last)
    changed = sorted(name for name in before | after if before.get(name) != after.get(name))
    wrong = item.check() if item.check is not None else ", ".join(changed)
    if wrong:
        return "half-written", wrong
    if item.ends and code == 128 + item.ends and len(lines) <= 2:
        return "clear errors", last
    clear = len(lines) == 1 and last.startswith("error: ") and len(last) <= MAX_MESSAGE
    if not clear or len(last) < len("error: ") + 10:
        return "unclear messages", f"exit code {code}: {text[-600:]}"
    if item.expected == ACCEPTED:
        return "wrongly refused", last
    return "clear errors", last


def snapshot(directory: Path) -> dict[str, str]:
    """Returns the state of everything in a directory: type and contents, by relative path."""
    found = {}
    for path in sorted(directory.rglob("*")):
        mode = path.lstat().st_mode
        state = f"{stat.S_IFMT(mode):o}"
        if stat.S_ISREG(mode):
            size = path.stat().st_size
            state += f" {size}"
            if size < 2**24:
                state += f" {hashlib.sha256(path.read_bytes()).hexdigest()}"
        found[str(path.relative_to(directory))] = state
    return found


def prepare(call: Callable[[], Any]) -> None:
    """Calls a function in a forked process, so that this one starts no threads.

    Raises:
        RuntimeError: If it fails.
    """
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = call() or 0
        except SystemExit as error:
            code = error.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    if os.waitpid(child, 0)[1]:
        raise RuntimeError(f"{call} failed")


def seconds_since(started: float) -> float:
    """Returns the seconds since `time.perf_counter()` returned a value."""
    return round(time.perf_counter() - started, 1)
