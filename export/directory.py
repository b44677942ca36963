"""The directory of a bundle: whole or not there, and never in place of somebody else's files."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.load import load_bundle
from mammoth_compiled.export.to_onnx import FILE_NAME


def check_target(path: str | os.PathLike[str]) -> Path:
    """Returns the absolute path of a directory where a bundle may be written.

    Raises:
        ExportError: If it is a file, holds anything else than a bundle, or cannot be made.
    """
    target = Path(path).resolve()
    if target.suffix == ".onnx":
        raise ExportError(
            f"{path} names a file: give the directory of the bundle, which holds {FILE_NAME}"
        )
    try:
        if target.exists() and not target.is_dir():
            raise ExportError(f"{path} is a file. Give a new or empty directory")
        if target.exists() and any(target.iterdir()) and not _is_bundle(target):
            raise ExportError(
                f"{path} holds something else than a bundle and stays as it is. Give a new or "
                "empty directory"
            )
        parent = next(folder for folder in target.parents if folder.exists())
    except OSError as error:
        raise ExportError(f"{path} cannot be looked into: {error}") from error
    if not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
        raise ExportError(f"{path} cannot be made: {parent} is not a writable directory")
    return target


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Gives a new directory to write into, which becomes `target` if the body succeeds.

    A bundle that was there is replaced; if the body fails, it stays and no new file remains.

    Args:
        target: What `check_target` returned.

    Raises:
        ExportError: If the file system refuses, or other files have come to `target` meanwhile.
    """
    token = uuid.uuid4().hex[:8]
    staging = target.with_name(f".{target.name}.{token}.new")
    replaced = target.with_name(f".{target.name}.{token}.old")
    try:
        staging.mkdir(parents=True)
        yield staging
        check_target(target)
        if target.exists():
            # Two renames, as none puts a directory in place of one that is not empty.
            target.rename(replaced)
        staging.rename(target)
    except OSError as error:
        raise ExportError(f"the bundle cannot be written to {target}: {error}") from error
    finally:
        if replaced.exists() and not target.exists():
            replaced.rename(target)
        for leftover in (staging, replaced):
            shutil.rmtree(leftover, ignore_errors=True)


def _is_bundle(folder: Path) -> bool:
    """Tells whether a directory holds the files of a bundle and nothing that a user added."""
    if [entry.name for entry in folder.iterdir()] != [FILE_NAME]:
        return False
    try:
        load_bundle(folder)
    except ExportError:
        return False
    return True
