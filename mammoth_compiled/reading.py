"""Reads files that a user names: regular ones of bounded size only."""

import math
import os
import stat
from pathlib import Path

from mammoth_compiled.errors import MammothError


def read_file(path: Path, max_bytes: int | None = None) -> bytes:
    """Returns the contents of a regular file.

    Pipes and devices are refused: reading one might wait forever or never end.

    Args:
        path: The file.
        max_bytes: Larger files are refused; None for no limit.

    Raises:
        MammothError: If the file is missing, too large, not a regular file, or cannot be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(handle)
            if stat.S_ISREG(status.st_mode) and status.st_size <= (max_bytes or math.inf):
                return file.read()
    except (OSError, ValueError, MemoryError) as error:  # ValueError: a null byte in the path
        reason = getattr(error, "strerror", None) or str(error) or "it does not fit in memory"
        raise MammothError(f"cannot read {path}: {reason}") from error
    if stat.S_ISREG(status.st_mode):
        why = f"it has {status.st_size:,} bytes, at most {max_bytes:,} are allowed"
    else:
        why = "it is not a regular file"
    raise MammothError(f"cannot read {path}: {why}")
