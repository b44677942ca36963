"""Reads and rewrites zip archives, the container of torch's file formats."""

from collections.abc import Mapping
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile, ZipInfo


def read_members(path: Path) -> dict[str, bytes]:
    """Returns the members of an archive, by name."""
    with ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_members(path: Path, members: Mapping[str, bytes]) -> None:
    """Writes or replaces an archive; members are stored uncompressed, as torch expects."""
    with ZipFile(path, "w", ZIP_STORED) as archive:
        for name, data in members.items():
            # Without a time stamp, so that equal content gives equal bytes.
            archive.writestr(ZipInfo(name), data)
