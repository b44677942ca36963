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
        Path(__file__).resolve().parents[2],
        Path(torch.__file__).parents[1],
        Path(sysconfig.get_paths()["stdlib"]),
        Path(sys.prefix),
        # Where AOTInductor compiles; named after the user.
        Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR", sys.prefix)),
    }
    if "torch._inductor" in sys.modules:  # else nothing was compiled, and it takes long to import
        from torch._inductor.runtime.cache_dir_utils import default_cache_dir

        # Where it keeps headers, whatever the variable says.
        names.add(Path(default_cache_dir()))
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
    found = [folder + b"/" for folder in local_folders()]
    # What is below another folder is found with it.
    folders = [name for name in found if not any(name != f and name.startswith(f) for f in found)]
    parts = [("", path.read_bytes())]
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            # Those that are stored as they are have been read with the file.
            parts += [
                (f" ({info.filename})", archive.read(info))
                for info in archive.infolist()
                if info.compress_type != zipfile.ZIP_STORED
            ]
    for where, data in parts:
        for folder in folders:
            if folder in data:
                raise ExportError(
                    f"{path.name}{where} would hold the local path {os.fsdecode(folder)}. Look for "
                    "it in the backbone's attributes"
                )
