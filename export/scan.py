"""Finds and removes what names this machine in the bytes of a file."""

import os
import re
import sys
import sysconfig
import zipfile
from pathlib import Path

import torch

from mammoth_compiled.errors import ExportError


def local_folders() -> list[bytes]:
    """Returns the folders whose names must not leave this machine, the longest first."""
    names = {
        Path.home(),
        Path.cwd(),
        Path(__file__).resolve().parents[1],
        Path(torch.__file__).parents[1],
        Path(sysconfig.get_paths()["stdlib"]),
        Path(sys.prefix),
        # Where AOTInductor compiles; named after the user.
        Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR", sys.prefix)),
    }
    # A root of the file system, home of some containers' users, names nothing.
    found = {os.fsencode(name) for name in names if len(name.parts) > 1}
    return sorted(found, key=len, reverse=True)


def scrub(data: bytes) -> bytes:
    """Returns bytes of the same length in which local paths are made unrecognisable.

    The whole path goes, the names of files and users below the folder too. Offsets stay, so that a
    shared library stays whole.
    """
    pattern = b"|".join(re.escape(folder) for folder in local_folders())
    return re.sub(
        b"(?:" + pattern + rb")(?:/[\w.+@=-]*)+",
        lambda match: b"/" + b"_" * (len(match[0]) - 1),
        data,
    )


def check_no_local_path(path: Path) -> None:
    """Looks for local paths in a file, and in what a zip archive holds.

    Raises:
        ExportError: If there is one; says which and where.
    """
    parts = [("", path.read_bytes())]
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            parts += [(f" ({name})", archive.read(name)) for name in archive.namelist()]
    for where, data in parts:
        for folder in local_folders():
            if folder + b"/" in data:
                raise ExportError(
                    f"{path.name}{where} would hold the local path {os.fsdecode(folder)}. Look for "
                    "it in the backbone's attributes"
                )
