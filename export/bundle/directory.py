"""The directory of a bundle: whole or not there, and never in place of somebody else's files."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.bundle.manifest import FILE_NAME as MANIFEST
from mammoth_compiled.export.bundle.manifest import read_manifest
from mammoth_compiled.export.bundle.metadata import SCHEMA_KEY


def check_target(path: str | os.PathLike[str]) -> Path:
    """Returns the absolute path of a directory where a bundle may be written.

    Raises:
        ExportError: If it is a file, holds anything else than a bundle, or cannot be made.
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
    made = [folder for folder in target.parents if not folder.exists()]
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
        for folder in made:
            with contextlib.suppress(OSError):  # what holds the new bundle stays
                folder.rmdir()


def _is_bundle(folder: Path) -> bool:
    """Tells whether a directory holds the files of a bundle and nothing that a user added."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
    if found == {"model.onnx"}:
        return _is_single_file(folder / "model.onnx")
    try:
        manifest = read_manifest(folder)
    except ExportError:
        return False
    return found <= {MANIFEST} | {file.path for file in manifest.files}


def _is_single_file(path: Path) -> bool:
    """Tells whether a model is a bundle of the time before there were manifests."""
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception:  # of protobuf, which has no types to check by
        return False
    return any(entry.key == SCHEMA_KEY for entry in model.metadata_props)
