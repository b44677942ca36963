"""Files: atomic writes, and the cache folder of the user."""

import os
import tempfile
from pathlib import Path

from mammoth_compiled.errors import MammothError


def user_cache() -> Path:
    """Returns the folder for results that can be recomputed.

    The environment variable `MAMMOTH_CACHE_DIR` sets it; the default is `mammoth_compiled` in the
    XDG cache folder.
    """
    given = os.environ.get("MAMMOTH_CACHE_DIR")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given) if given else Path(base) / "mammoth_compiled"


def check_writable(path: Path) -> None:
    """Checks that a file can be created, including missing parent directories; creates nothing.

    Raises:
        MammothError: If it cannot be created; says why.
    """
    try:
        if path.is_dir():
            raise MammothError(f"cannot write {path}: it is a directory; give a file in it")
        parent = next(directory for directory in path.resolve().parents if directory.exists())
        if not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
            raise MammothError(f"cannot write {path}: {parent} is not a writable directory")
    except OSError as error:
        raise MammothError(f"cannot write {path}: {error}") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file completely or not at all; creates missing folders.

    Args:
        path: The file; an existing one is replaced.
        content: Its bytes.

    Raises:
        MammothError: If the file cannot be written. The old file, if any, is unchanged.
    """
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
