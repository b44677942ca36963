"""The checkpoint file: written whole or not at all, read without running code."""

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
# What a file must hold; `models.state` says what is in the parts.
KEYS = ("net", "backbone", "data", "model", "random", "args", "results", "tasks_done", "compute")


def write_checkpoint(path: str | Path, content: dict[str, Any]) -> Path:
    """Writes a checkpoint.

    Args:
        path: The file.
        content: The parts named in `KEYS`, made of tensors, numbers, texts, lists, dictionaries.
    """
    stream = io.BytesIO()
    torch.save({"format": FORMAT, "version": VERSION, **content}, stream)
    write_atomically(Path(path), stream.getvalue())
    return Path(path)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint; tensors come to the CPU, no code in the file is run.

    Raises:
        CheckpointError: If the file is not there, truncated, holds pickled code or is something
            else.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}: --savecheck task|last writes one")
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path} is truncated or no checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds pickled code, which is not run; only files of --savecheck are read"
        ) from error
    except (RuntimeError, EOFError, KeyError, ValueError, OSError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of mammoth_compiled")
    if content["version"] > VERSION:
        raise CheckpointError(
            f"{path} has version {content['version']}, this release reads {VERSION}: update it"
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
