"""Replaces the directory of a bundle atomically, and never overwrites other files."""

import contextlib
import os
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
    target = Path(path).resolve()
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

    If the body fails, an existing bundle stays and no new file remains.

    Args:
        target: The path that `check_target` returned.

    Raises:
        ExportError: If the file system refuses, or other files appeared in `target` meanwhile.
    """
    token = uuid.uuid4().hex[:8]
    staging = target.with_name(f".{target.name}.{token}.new")
    replaced = target.with_name(f".{target.name}.{token}.old")
    created = [directory for directory in target.parents if not directory.exists()]
    try:
        staging.mkdir(parents=True)
        yield staging
        check_target(target)
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
        for directory in created:
            with contextlib.suppress(OSError):  # not empty: it holds the new bundle
                directory.rmdir()


def _is_bundle(directory: Path) -> bool:
    """Checks that a directory holds the files of a bundle and none that a user added."""
    found = {str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir()}
    try:
        manifest = read_manifest(directory)
    except ExportError:
        return False
    return found <= {FILE_NAME} | {file.path for file in manifest.files}
