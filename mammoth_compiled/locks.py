"""Locked files: who holds one, and how long to wait for it."""

import contextlib
import os
import time
from pathlib import Path

try:
    import fcntl
except ImportError:  # not POSIX: no locks
    fcntl = None  # type: ignore[assignment]

HAS_LOCKS = fcntl is not None
# Seconds that processes of a killed run have to end: loaders that inherited its lock, or runs of a
# sweep, which stop after their current step and may be compiling it.
ORPHANS_S = 60.0


def open_locked(path: Path, wait: bool) -> int:
    """Opens a file, creating it if it is missing, and locks it.

    Raises:
        BlockingIOError: If another process holds the lock and `wait` is False.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            if fcntl is not None:
                _lock(handle, wait)
            # The holder before may have renamed or removed the file.
            if is_same(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def open_after_orphans(path: Path) -> int:
    """Opens and locks a file; waits only if the process that locked it no longer exists.

    Raises:
        BlockingIOError: If another process holds the lock.
    """
    end = time.monotonic() + ORPHANS_S
    while True:
        try:
            return open_locked(path, wait=False)
        except BlockingIOError:
            if _holder_exists(path) or time.monotonic() > end:
                raise
        time.sleep(0.05)


def _holder_exists(path: Path) -> bool:
    """Returns whether the process whose number a lock file contains exists; True if unknown."""
    try:
        os.kill(int(path.read_text()), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError, OverflowError):
        return True
    return True


def _lock(handle: int, wait: bool) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError:  # the file system has no locks
        return


def remove_stale(directory: Path) -> None:
    """Removes the locks and temporary files that killed processes left in and of a directory."""
    own = directory.with_name(f".{directory.name}.lock")
    for path in (own, *directory.rglob(".*")):
        with contextlib.suppress(OSError):  # held, or not there
            if is_temporary(path) and path.is_file():
                handle = open_locked(path, wait=False)
                path.unlink()
                os.close(handle)


def is_temporary(path: Path) -> bool:
    """Returns whether a path has the name of a lock or of a temporary file of an output."""
    return path.name.startswith(".") and path.suffix in (".lock", ".tmp")


def is_same(handle: int, path: Path) -> bool:
    """Returns whether a path names the file that a descriptor has open."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
