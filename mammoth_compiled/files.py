"""Writes files whole or not at all."""

import os
import tempfile
from pathlib import Path

from mammoth_compiled.errors import MammothError


def user_cache() -> Path:
    """Returns the user's folder for what can be computed again: MAMMOTH_CACHE_DIR, or XDG's."""
    given = os.environ.get("MAMMOTH_CACHE_DIR")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given) if given else Path(base) / "mammoth_compiled"


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that nobody ever sees half of it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise MammothError(f"cannot write {path}: {error}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        os.unlink(temporary)
        if isinstance(error, OSError):
            raise MammothError(f"cannot write {path}: {error}") from error
        raise
