"""Verifies compiled libraries in Inductor's cache before they are loaded.

Inductor loads whatever file has the right name. A truncated library ends the process with SIGBUS, a
damaged one may compute something else. Every library therefore gets a file with its hash beside it;
one that does not match is compiled again, and so is one without a hash from an earlier process.
"""

import contextlib
import functools
import hashlib
import os
import pkgutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_COMPILE = "torch._inductor.codecache:_worker_compile_cpp"
# A library that this process or one of its workers compiled is complete, with or without a hash.
_STARTED = time.time()


@functools.cache
def verify_libraries() -> None:
    """Lets Inductor verify, from now on, the C++ libraries that it loads in this process."""
    from torch._inductor import codecache

    compile_cpp = getattr(codecache, "_worker_compile_cpp", None)
    if compile_cpp is not None:
        codecache._worker_compile_cpp = _VerifiedCompile(compile_cpp)  # type: ignore[assignment]


class _VerifiedCompile:
    """Compiles a library unless it is in the cache and intact."""

    def __init__(self, compile_cpp: Callable[..., None]) -> None:
        self._compile = compile_cpp

    def __call__(self, lock_path: str, builders: Sequence[Any]) -> None:
        files = [Path(builder.get_target_file_path()) for builder in builders]
        if files[-1].exists() and not is_intact(files[-1]):
            for file in [*files, _hash_path(files[-1])]:
                file.unlink(missing_ok=True)
        self._compile(lock_path, builders)
        record(files[-1])

    def __reduce__(self) -> Any:
        # Worker processes only compile; importing this package there would take seconds.
        return pkgutil.resolve_name, (_COMPILE,)


def is_intact(library: Path) -> bool:
    """Returns whether a library is what was compiled: it has its hash, or is new.

    Args:
        library: Its path.
    """
    if not library.is_file():  # reading a pipe or a device might never end
        return False
    try:
        return _hash_path(library).read_text() == _hash(library)
    except (OSError, ValueError):  # no hash, or a damaged one
        return not _hash_path(library).exists() and library.stat().st_mtime >= _STARTED


def record(library: Path) -> None:
    """Writes the hash of a complete library beside it; one that exists stays."""
    path = _hash_path(library)
    if path.exists():
        return
    with contextlib.suppress(OSError):  # the library is compiled again next time
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "w") as file:
            file.write(_hash(library))
        os.replace(temporary, path)


def _hash_path(library: Path) -> Path:
    return library.with_name(f"{library.name}.sha256")


def _hash(library: Path) -> str:
    return hashlib.sha256(library.read_bytes()).hexdigest()
