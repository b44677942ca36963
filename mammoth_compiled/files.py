"""Files: atomic writes that replace regular files only, locks, and the cache folder of the user."""

import contextlib
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from mammoth_compiled.errors import MammothError
from mammoth_compiled.locks import HAS_LOCKS, is_same, open_after_orphans, open_locked

# Size of the probe of `check_writable`, in bytes; an empty file fits on a full disk.
PROBE_SIZE = 4096


def user_cache() -> Path:
    """Returns the folder for results that can be recomputed.

    The environment variable `MAMMOTH_CACHE_DIR` sets it; the default is `mammoth_compiled` in the
    XDG cache folder.
    """
    given = os.environ.get("MAMMOTH_CACHE_DIR")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given) if given else Path(base) / "mammoth_compiled"


def portable_name(text: str) -> str:
    """Returns a text as a file name that every system accepts and no shell takes apart.

    Args:
        text: Any text; characters other than letters, digits and `. _ - + = @` become `_`.

    Example:
        >>> portable_name("er-seq-cifar10-timm:resnet18-s0")
        'er-seq-cifar10-timm_resnet18-s0'
    """
    return re.sub(r"[^\w.+=@-]", "_", text)


def check_writable(path: Path) -> None:
    """Checks that a file can be written, by writing a temporary file beside it and removing it.

    Missing parent directories are created and removed again. Devices and pipes are not written to.

    Raises:
        MammothError: If it cannot be written; says why.
    """
    try:
        if path.is_dir():
            raise MammothError(f"cannot write {path}: it is a directory; give a file in it")
        if _is_stream(path):
            return
        target = path.resolve()
        parent = next(directory for directory in target.parents if directory.exists())
        if not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
            raise MammothError(f"cannot write {path}: {parent} is not a writable directory")
        with directories(target.parent), _temporary(target) as (handle, _):
            os.write(handle, bytes(PROBE_SIZE))
            os.fsync(handle)
    except OSError as error:
        raise MammothError(f"cannot write {path}: {error}") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file completely or not at all; creates missing folders.

    A symbolic link stays, and its target is written. An existing file keeps its mode. A character
    device, a pipe, and the file that standard output or standard error is redirected to are
    written to, never replaced.

    Args:
        path: The file; an existing one is replaced.
        content: Its bytes.

    Raises:
        MammothError: If the file cannot be written. The old file, if any, is unchanged.
    """
    try:
        if _is_stream(path):
            _write_stream(path, content)
            return
        target = path.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(target) as (handle, temporary):
            with os.fdopen(os.dup(handle), "wb") as file:
                file.write(content)
            if target.exists():
                os.fchmod(handle, stat.S_IMODE(target.stat().st_mode))
            os.fsync(handle)
            os.replace(temporary, target)
    except OSError as error:
        raise MammothError(f"cannot write {path}: {error}") from error


def write_once(path: Path, chunks: Callable[[], Iterable[bytes]]) -> None:
    """Writes a file unless it exists; creates missing folders.

    Processes that write the same file wait for the first and then use what it wrote. A process that
    is killed leaves no half-written file.

    Args:
        path: The file.
        chunks: Called if the file is missing; yields its bytes in parts.

    Raises:
        MammothError: If the file cannot be written.
    """
    try:
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(path) as (handle, temporary):
            if path.exists():  # written while this process waited
                return
            with os.fdopen(os.dup(handle), "wb") as file:
                for chunk in chunks():
                    file.write(chunk)
            os.fsync(handle)
            os.replace(temporary, path)
    except OSError as error:
        raise MammothError(f"cannot write {path}: {error}") from error


@contextlib.contextmanager
def lock(path: Path, content: str, argument: str) -> Iterator[None]:
    """Holds a lock in the name of an output, so that two runs do not overwrite each other's.

    The lock is a file beside the output, `.NAME.lock`, with the number of the process; the system
    releases it when the process and those forked from it have ended. If the process was killed,
    this waits for the others up to `locks.ORPHANS_S`. Where the file system has no locks, nothing
    is checked.

    Args:
        path: The output, a file or a directory.
        content: What is written there, for the message: "results" for example.
        argument: The argument that chooses another path.

    Raises:
        MammothError: If another run holds the lock.
    """
    if not HAS_LOCKS or _is_stream(path):
        yield
        return
    target = path.resolve()
    lock_path = target.with_name(f".{target.name}.lock")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(directories(target.parent))
            handle = open_after_orphans(lock_path)
        except BlockingIOError as error:
            raise MammothError(
                f"another run is writing {content} to {path}: wait until it ends, or give another "
                f"{argument}"
            ) from error
        except OSError as error:
            raise MammothError(f"cannot write {path}: {error}") from error
        with contextlib.suppress(OSError):  # a full disk
            os.ftruncate(handle, 0)
            os.write(handle, b"%d\n" % os.getpid())
        try:
            yield
        finally:
            # Before the lock is released: afterwards the file may be another run's.
            lock_path.unlink(missing_ok=True)
            os.close(handle)


@contextlib.contextmanager
def directories(path: Path) -> Iterator[None]:
    """Creates missing directories and removes them in the end if they are empty.

    Raises:
        OSError: If one cannot be created.
    """
    created = [directory for directory in (path, *path.parents) if not directory.exists()]
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for directory in created:
            with contextlib.suppress(OSError):
                directory.rmdir()


def _is_stream(path: Path) -> bool:
    """Returns whether a path is written to in place: a device, a pipe, or our own output.

    Raises:
        MammothError: If it is something that cannot hold a file: a socket or a disk.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    if stat.S_ISSOCK(status.st_mode) or stat.S_ISBLK(status.st_mode):
        kind = "a socket" if stat.S_ISSOCK(status.st_mode) else "a block device"
        raise MammothError(f"cannot write {path}: it is {kind}; give the path of a file")
    if stat.S_ISCHR(status.st_mode) or stat.S_ISFIFO(status.st_mode):
        return True
    return _own_output(path) is not None


def _own_output(path: Path) -> int | None:
    """Returns the descriptor of standard output or error if the path is where it goes."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            if os.path.samestat(path.stat(), os.fstat(descriptor)):
                return descriptor
    return None


def _write_stream(path: Path, content: bytes) -> None:
    descriptor = _own_output(path)
    if descriptor is not None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        file = os.fdopen(os.dup(descriptor), "wb")
    else:
        # A pipe that nobody reads is an error (ENXIO) instead of a run that never ends.
        handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        os.set_blocking(handle, True)
        file = os.fdopen(handle, "wb")
    with file:
        file.write(content)


@contextlib.contextmanager
def _temporary(target: Path) -> Iterator[tuple[int, Path]]:
    """Opens the temporary file of a target and removes it in the end, unless it was renamed.

    Its name is fixed, so that what a killed process left behind is used again; a lock keeps
    writers of the same target apart.
    """
    path = target.with_name(f".{target.name}.tmp")
    handle = open_locked(path, wait=True)
    try:
        os.ftruncate(handle, 0)
        yield handle, path
    finally:
        if is_same(handle, path):
            path.unlink()
        os.close(handle)
