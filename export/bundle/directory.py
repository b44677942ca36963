"""Replaces the directory of a bundle atomically, and never overwrites other files."""

import contextlib
import ctypes
import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.bundle.manifest import FILE_NAME
from mammoth_compiled.export.bundle.manifest_reader import read_manifest


def check_target(path: str | os.PathLike[str]) -> Path:
    """Returns the absolute path of a directory that a bundle may be written to.

    Raises:
        ExportError: If the path is a file, holds anything but a bundle, or cannot be created.
    """
    target = Path(os.path.realpath(path))
    if target.suffix == ".onnx":
        raise ExportError(
            f"{path} names a file: give the directory of the bundle, which will hold it"
        )
    try:
        if target.exists() and not target.is_dir():
            raise ExportError(f"{path} is a file. Give a new or empty directory")
        if target.exists() and any(target.iterdir()) and not _is_bundle(target):
            raise ExportError(
                f"{path} holds files that do not belong to a bundle and is left unchanged. Give a "
                "new or empty directory"
            )
        parent = next(directory for directory in target.parents if directory.exists())
    except OSError as error:
        raise ExportError(f"{path} cannot be accessed: {error}") from error
    if not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
        raise ExportError(f"{path} cannot be created: {parent} is not a writable directory")
    return target


@contextlib.contextmanager
def replace_atomically(target: Path) -> Iterator[Path]:
    """Yields a new directory that replaces `target` when the body succeeds.

    If the body fails, an existing bundle stays and no new file remains. If the process is killed,
    the next call for the same target, or `recover`, removes what it left.

    Args:
        target: The path that `check_target` returned.

    Raises:
        ExportError: If the file system refuses, or other files appeared in `target` meanwhile.
    """
    token = uuid.uuid4().hex[:8]
    staging = target.with_name(f".{target.name}.{token}.new")
    replaced = target.with_name(f".{target.name}.{token}.old")
    created = [directory for directory in target.parents if not directory.exists()]
    handle = None
    try:
        recover(target)
        staging.mkdir(parents=True)
        handle = _lock(staging)
        yield staging
        check_target(target)
        if not (target.exists() and exchange(staging, target)):
            if target.exists():
                # Two renames, because no rename replaces a directory that is not empty.
                target.rename(replaced)
            staging.rename(target)
    except OSError as error:
        raise ExportError(f"the bundle cannot be written to {target}: {error}") from error
    finally:
        if replaced.exists() and not target.exists():
            replaced.rename(target)
        for leftover in (staging, replaced):
            shutil.rmtree(leftover, ignore_errors=True)
        if handle is not None:
            os.close(handle)
        for directory in created:
            with contextlib.suppress(OSError):  # not empty: it holds the new bundle
                directory.rmdir()


def recover(bundle: Path) -> None:
    """Completes what a killed process left of an export or update.

    Its temporary directories are removed. If it was killed between the two renames that replace a
    bundle, the old bundle returns to its place. Directories of running processes are left alone.

    Args:
        bundle: The directory of the bundle.
    """
    with contextlib.suppress(OSError, ValueError):  # absent, impossible, or not ours to change
        bundle = Path(os.path.realpath(bundle))
        pattern = re.compile(rf"\.{re.escape(bundle.name)}\.[0-9a-f]{{8}}\.(new|old)")
        for path in [p for p in bundle.parent.iterdir() if pattern.fullmatch(p.name)]:
            handle = _lock(path)
            if handle is None:
                continue
            if path.suffix == ".old" and not bundle.exists():
                path.rename(bundle)
            else:
                shutil.rmtree(path, ignore_errors=True)
            os.close(handle)


def exchange(first: Path, second: Path) -> bool:
    """Exchanges two directories in one step, and returns whether the system can do that."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    at_working_directory, rename_exchange = -100, 2
    return not libc.renameat2(
        ctypes.c_int(at_working_directory),
        os.fsencode(first),
        ctypes.c_int(at_working_directory),
        os.fsencode(second),
        ctypes.c_uint(rename_exchange),
    )


def _lock(directory: Path) -> int | None:
    """Locks a directory until the handle is closed; returns None if another process holds it."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def _is_bundle(directory: Path) -> bool:
    """Checks that a directory holds the files of a bundle and none that a user added."""
    found = {str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir()}
    try:
        manifest = read_manifest(directory)
    except ExportError:
        return False
    return found <= {FILE_NAME} | {file.path for file in manifest.files}
