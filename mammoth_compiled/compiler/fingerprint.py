"""A hash of the sources that compiled code and measurements depend on."""

import functools
import hashlib
from pathlib import Path

import mammoth_compiled.compiler
import mammoth_compiled.kernels

_SUFFIXES = (".py", ".json", ".cpp", ".hpp")


@functools.cache
def source_hash() -> str:
    """Returns a hash of the compiler, the kernels and their tables, 16 hexadecimal digits.

    It is part of the key of everything cached on disk: torch cannot see whether our functions,
    kernels or tile tables changed.
    """
    digest = hashlib.sha256()
    for package in (mammoth_compiled.compiler, mammoth_compiled.kernels):
        folder = Path(str(package.__file__)).parent
        for path in sorted(p for p in folder.rglob("*") if p.suffix in _SUFFIXES):
            digest.update(path.relative_to(folder).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
