"""Compiles a plain-text list of documented names to an inventory that intersphinx reads."""

import zlib
from pathlib import Path

HEADER = (
    "# Sphinx inventory version 2\n"
    "# Project: {project}\n"
    "# Version: \n"
    "# The remainder of this file is compressed using zlib.\n"
)


def compile_inventory(source: Path, folder: Path) -> Path:
    """Writes the inventory of a list and returns its path.

    Args:
        source: One name a line: `name domain:role page#anchor`; `#` starts a comment line, and a
            `$` at the end of the page stands for the name.
        folder: Where to write it.
    """
    lines = [line.split() for line in source.read_text().splitlines()]
    entries = [line for line in lines if line and not line[0].startswith("#")]
    body = "".join(f"{name} {role} 1 {uri} -\n" for name, role, uri in entries)
    path = folder / f"{source.stem}.inv"
    path.write_bytes(HEADER.format(project=source.stem).encode() + zlib.compress(body.encode()))
    return path
