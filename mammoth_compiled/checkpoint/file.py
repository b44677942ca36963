"""The checkpoint file: written atomically, and read without running code."""

import hashlib
import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from mammoth_compiled.checkpoint.layout import check_layout, layout
from mammoth_compiled.checkpoint.schema import check_checkpoint
from mammoth_compiled.errors import CheckpointError, MammothError
from mammoth_compiled.files import write_atomically
from mammoth_compiled.reading import read_file

FORMAT = "mammoth_compiled checkpoint"
# Releases that do not know checkpoints within a task must not take one for that of a whole task.
WITHIN_FORMAT = "mammoth_compiled checkpoint within a task"
VERSION = 2
# The file ends with the SHA-256 of all bytes before it, as the comment of its zip archive:
# `torch.load` reads the file as well.
CHECKSUM_LABEL = b"sha256:"
CHECKSUM_SIZE = 64


def write_checkpoint(path: str | Path, content: dict[str, Any]) -> Path:
    """Writes a checkpoint.

    Args:
        path: The file.
        content: The entries of `checkpoint.schema.CHECKPOINT`.

    Returns:
        The path of the file.

    Raises:
        CheckpointError: If an entry violates the schema.
        MammothError: If the file cannot be written. An old file is unchanged.
    """
    try:
        check_checkpoint(content)
    except CheckpointError as error:
        raise CheckpointError(
            f"{path} cannot be saved, because it could not be read: {error}"
        ) from error
    kind = WITHIN_FORMAT if "within" in content else FORMAT
    content = {"format": kind, "version": VERSION, **content, "layout": layout(content)}
    archive = pack(content)
    write_atomically(Path(path), add_checksum(archive))
    return Path(path)


def pack(content: dict[str, Any]) -> bytes:
    """Returns content as a zip archive in the format of `torch.save`."""
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def unpack(archive: bytes) -> Any:
    """Returns what was passed to `pack`, with its tensors on the CPU. Runs no code in it."""
    return torch.load(io.BytesIO(archive), map_location="cpu", weights_only=True)


def add_checksum(archive: bytes) -> bytes:
    """Returns a zip archive without a comment with its checksum as the comment."""
    size = len(CHECKSUM_LABEL) + CHECKSUM_SIZE
    # The last two bytes of an archive are the length of its comment.
    body = archive[:-2] + size.to_bytes(2, "little") + CHECKSUM_LABEL
    return body + hashlib.sha256(body).hexdigest().encode()


def _has_checksum(content: bytes) -> bool:
    return content[:-CHECKSUM_SIZE].endswith(CHECKSUM_LABEL)


def _is_intact(content: bytes) -> bool:
    digest = hashlib.sha256(memoryview(content)[:-CHECKSUM_SIZE]).hexdigest()
    return digest.encode() == content[-CHECKSUM_SIZE:]


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint, with its tensors on the CPU. Does not run code in the file.

    Args:
        path: The file.

    Returns:
        The entries of `checkpoint.schema.CHECKPOINT`.

    Raises:
        CheckpointError: If the file is missing, damaged, contains pickled code, is not a
            checkpoint, has another version, or violates the schema; says which field.
    """
    path = Path(path)
    if not os.path.isfile(path):  # unlike `Path.is_file`, also for impossible paths
        raise CheckpointError(f"no checkpoint at {path}: --savecheck task|last writes one")
    try:
        raw = read_file(path)
    except MammothError as error:
        raise CheckpointError(str(error)) from error
    # Before anything else reads the contents.
    if _has_checksum(raw) and not _is_intact(raw):
        raise CheckpointError(f"{path} is damaged: its checksum does not match its contents")
    if not _is_archive(raw):
        raise CheckpointError(f"{path} is truncated or not a checkpoint")
    content = _load(path, raw)
    kind = content.get("format") if isinstance(content, dict) else None
    if not isinstance(kind, str) or kind != (WITHIN_FORMAT if "within" in content else FORMAT):
        raise CheckpointError(f"{path} is not a checkpoint of mammoth_compiled")
    _check_version(path, content.get("version"))
    if not _has_checksum(raw):
        raise CheckpointError(f"{path} is damaged: it has no checksum")
    try:
        check_checkpoint(content)
        check_layout(content)
    except CheckpointError as error:
        raise CheckpointError(f"{path} is not a valid checkpoint: {error}") from error
    return content


def _is_archive(content: bytes) -> bool:
    try:
        return zipfile.is_zipfile(io.BytesIO(content))
    except zipfile.BadZipFile:
        return False


def _load(path: Path, raw: bytes) -> Any:
    try:
        return unpack(raw)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} contains pickled code, which is not run: use a file written by --savecheck"
        ) from error
    except Exception as error:  # a damaged file can raise anything
        raise CheckpointError(f"{path} is damaged: {error}") from error


def _check_version(path: Path, version: Any) -> None:
    if isinstance(version, bool) or not isinstance(version, int):
        raise CheckpointError(f"{path} is not a valid checkpoint: version must be an integer")
    if version > VERSION:
        raise CheckpointError(
            f"{path} has version {version}, but this release reads version {VERSION}: "
            "update mammoth_compiled"
        )
    if version < VERSION:
        raise CheckpointError(
            f"{path} was written by an earlier release (version {version}, this release "
            f"reads {VERSION}): load it with that release"
        )
