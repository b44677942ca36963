"""Sizes and SHA-256 hashes of a bundle's files: recorded on export, checked before use."""

import hashlib
from dataclasses import replace
from pathlib import Path

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.bundle.manifest import File


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def with_hash(directory: Path, file: File) -> File:
    """Returns a file's entry with the size and hash of the file on disk."""
    path = directory / file.path
    return replace(file, sha256=sha256(path), bytes=path.stat().st_size)


def check_file(directory: Path, file: File) -> Path:
    """Returns the path of a bundle's file, after comparing its size and hash with the manifest.

    Raises:
        ExportError: If the file is missing, or has another size or hash.
    """
    path = directory / file.path
    try:
        if not path.is_file():
            raise ExportError(f"the bundle {directory} lacks its file {file.path}", "missing")
        if path.stat().st_size != file.bytes or sha256(path) != file.sha256:
            raise ExportError(
                f"{path} is not what the manifest says: its size or SHA-256 differs. It is "
                "damaged or was changed; copy the bundle again, or export again",
                "damaged",
            )
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error}", "missing") from error
    return path
