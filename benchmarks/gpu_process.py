"""Runs a section of `gpu.py` in a process of its own, within a limit of time."""

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path


def run_apart(work, part, log, soft, hard):
    """Runs work that adds rows to a file, one JSON object a line.

    Args:
        work: The words of a command; or a function, which a fork of this process calls.
        part: The file of rows; it is removed.
        log: A file that its output is appended to.
        soft: Seconds after which it stops by itself, for the message.
        hard: Seconds after which it is killed, with all processes that it started.

    Returns:
        The rows that it wrote, and what went wrong, "" if nothing.
    """
    part.unlink(missing_ok=True)
    with log.open("ab") as output:
        begin, reason = output.tell(), ""
        child = Fork(work, output) if callable(work) else _popen(work, output)
        try:
            code = child.wait(hard)
        except subprocess.TimeoutExpired:
            reason = f"killed after {hard:.0f} s; it should have stopped after {soft:.0f} s"
        else:
            if code:
                reason = f"exit code {code}: {_end_of(log, begin)}"
        finally:
            kill_group(child)
    return read_rows(part), reason


def _popen(command, output):
    return subprocess.Popen(
        [*map(str, command)], stdout=output, stderr=subprocess.STDOUT, start_new_session=True
    )


class Fork:
    """A fork of this process that calls a function; used as a `subprocess.Popen`."""

    def __init__(self, function, output):
        context = multiprocessing.get_context("fork")
        self._process = context.Process(target=self._call, args=(function, output.fileno()))
        self._process.start()
        self.pid = self._process.pid

    @staticmethod
    def _call(function, output):
        os.setsid()
        for stream in (1, 2):
            os.dup2(output, stream)
        function()

    @property
    def returncode(self):
        """The exit code, None while it runs."""
        return self._process.exitcode

    poll = returncode.fget

    def kill(self):
        """Kills it."""
        self._process.kill()

    def wait(self, timeout=None):
        """Returns the exit code."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("fork", timeout)
        return self._process.exitcode


def kill_group(child):
    """Kills a process and what it started, such as workers that outlived it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def read_rows(part):
    """Returns the rows in a file, without a last one that was cut off, and removes it."""
    rows = []
    if part.exists():
        for line in part.read_text().splitlines():
            with contextlib.suppress(ValueError):
                rows.append(json.loads(line))
        part.unlink()
    return rows


def write_rows(part, rows):
    """Appends rows to a file as they come."""
    with part.open("a") as file:
        for row in rows:
            file.write(json.dumps(_finite(row)) + "\n")
            file.flush()


def section_command(name, out, seconds):
    """Returns the command that runs one section."""
    script = Path(__file__).with_name("gpu.py")
    return [sys.executable, script, "--section", name, "--out", out, "--budget", seconds]


def _end_of(log, begin, length=1500):
    with log.open("rb") as file:
        file.seek(begin)
        return file.read()[-length:].decode(errors="replace").strip()


def _finite(value):
    """Replaces numbers that JSON has no word for by None."""
    if isinstance(value, dict):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), -float("inf"))):
        return None
    return value
