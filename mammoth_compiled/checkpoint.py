"""The checkpoint file: written atomically, and read without running code."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from mammoth_compiled.errors import CheckpointError
from mammoth_compiled.files import write_atomically

FORMAT = "mammoth_compiled checkpoint"
VERSION = 2
# Required entries; `mammoth_compiled.engine.resume` defines their contents.
KEYS = ("net", "backbone", "data", "model", "random", "args", "results", "tasks_done", "compute")


def write_checkpoint(path: str | Path, content: dict[str, Any]) -> Path:
    """Writes a checkpoint.

    Args:
        path: The file.
        content: The entries named in `KEYS`: tensors, numbers, strings, lists and dictionaries.

    Returns:
        The path of the file.

    Raises:
        MammothError: If the file cannot be written. An old file is unchanged.
    """
    stream = io.BytesIO()
    torch.save({"format": FORMAT, "version": VERSION, **content}, stream)
    write_atomically(Path(path), stream.getvalue())
    return Path(path)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint, with its tensors on the CPU. Does not run code in the file.

    Args:
        path: The file.

    Returns:
        The entries named in `KEYS`.

    Raises:
        CheckpointError: If the file is missing, damaged, contains pickled code, is not a
            checkpoint, or has another version.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}: --savecheck task|last writes one")
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path} is truncated or not a checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} contains pickled code, which is not run: use a file written by --savecheck"
        ) from error
    except (RuntimeError, EOFError, KeyError, ValueError, OSError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of mammoth_compiled")
    if content["version"] > VERSION:
        raise CheckpointError(
            f"{path} has version {content['version']}, but this release reads version {VERSION}: "
            "update mammoth_compiled"
        )
    if content["version"] < VERSION:
        raise CheckpointError(
            f"{path} was written by an earlier release (version {content['version']}, this release "
            f"reads {VERSION}): load it with that release"
        )
    missing = [key for key in KEYS if key not in content]
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}")
    return content
