"""Finds and removes paths of this machine in exported files."""

import os
import re
import sys
import sysconfig
import zipfile
from pathlib import Path

import torch

import mammoth_compiled.export
from mammoth_compiled.errors import ExportError


def local_directories() -> list[bytes]:
    """Returns the directories whose names must not leave this machine, the longest first."""
    directories = {
        Path.home(),
        Path.cwd(),
        Path(mammoth_compiled.export.__file__).resolve().parents[1],
        Path(torch.__file__).parents[1],
        Path(sysconfig.get_paths()["stdlib"]),
        Path(sys.prefix),
        # Where AOTInductor compiles; its default is named after the user.
        Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR", sys.prefix)),
    }
    if "torch._inductor" in sys.modules:  # slow to import, and without it nothing was compiled
        from torch._inductor.runtime.cache_dir_utils import default_cache_dir

        # Inductor keeps precompiled headers here even if the variable names another directory.
        directories.add(Path(default_cache_dir()))
    # The root of the file system, home directory in some containers, identifies nothing.
    found = {os.fsencode(directory) for directory in directories if len(directory.parts) > 1}
    return sorted(found, key=len, reverse=True)


def scrub(data: bytes) -> bytes:
    """Overwrites local paths with underscores.

    A path is removed whole, including file and user names below the directory. The length of the
    data and all offsets stay, so that shared libraries remain valid.
    """
    pattern = b"|".join(re.escape(directory) for directory in local_directories())
    return re.sub(
        b"(?:" + pattern + rb")(?:/[\w.+@=-]*)+",
        lambda match: b"/" + b"_" * (len(match[0]) - 1),
        data,
    )


def check_no_local_path(path: Path) -> None:
    """Searches a file, and the members of a zip archive, for local paths.

    Raises:
        ExportError: If there is one; says which and where.
    """
    found = [directory + b"/" for directory in local_directories()]
    # Searching for a directory also finds those below it.
    prefixes = [name for name in found if not any(name != f and name.startswith(f) for f in found)]
    contents = [("", path.read_bytes())]
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            # Uncompressed members are part of the file's own bytes.
            contents += [
                (f" ({info.filename})", archive.read(info))
                for info in archive.infolist()
                if info.compress_type != zipfile.ZIP_STORED
            ]
    for where, data in contents:
        for prefix in prefixes:
            if prefix in data:
                raise ExportError(
                    f"{path.name}{where} would hold the local path {os.fsdecode(prefix)}. Look for "
                    "it in the backbone's attributes"
                )
