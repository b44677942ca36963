"""Overwrites the weights in a file in place; all other bytes keep their value and offset.

No model is loaded and saved again, so an update changes nothing but the weights.
"""

import contextlib
import mmap
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from zipfile import ZipFile

import torch

from mammoth_compiled.errors import ExportError

# Member of an archive to the weights in it: weight name to (offset, number of bytes).
WeightLocations = Mapping[str, Mapping[str, tuple[int, int]]]

_EMPTY = torch.empty(0, dtype=torch.uint8)

# The header of a member of a zip archive: its length, and the offsets of the checksum and of the
# lengths of the two variable-size fields that follow it.
_HEADER, _CRC, _LENGTHS = 30, 14, 26
# Flag of members whose checksum follows the data, and the signature in front of that checksum.
_CRC_FOLLOWS, _SIGNATURE = 0x8, b"PK\x07\x08"


@contextlib.contextmanager
def writable_bytes(path: Path) -> Iterator[memoryview]:
    """Yields the content of a file as memory; assignments change the file."""
    with (
        path.open("r+b") as stream,
        mmap.mmap(stream.fileno(), 0) as data,
        memoryview(data) as view,
    ):
        yield view


def replace_in_archive(
    path: Path, locations: WeightLocations, weights: Mapping[str, torch.Tensor]
) -> None:
    """Overwrites weights in an uncompressed zip archive and corrects its checksums.

    Args:
        path: The archive.
        locations: Where the archive stores each weight.
        weights: Name to new value. Weights without a location are ignored.

    Raises:
        ExportError: If a stored weight is absent from `weights` or has another size.
    """
    with ZipFile(path, "a") as archive, writable_bytes(path) as data:
        for member, stored in locations.items():
            info = archive.getinfo(member)
            lengths = struct.unpack_from("<HH", data, info.header_offset + _LENGTHS)
            start = info.header_offset + _HEADER + sum(lengths)
            end = start + info.file_size
            with data[start:end] as content:
                for name, (offset, size) in stored.items():
                    content[offset : offset + size] = weight_bytes(weights, name, size)
                info.CRC = zlib.crc32(content)
            checksum = info.header_offset + _CRC
            if info.flag_bits & _CRC_FOLLOWS:
                checksum = end + len(_SIGNATURE) * (data[end : end + len(_SIGNATURE)] == _SIGNATURE)
            struct.pack_into("<I", data, checksum, info.CRC)
        archive.comment = archive.comment  # rewrites the central directory, with its checksums


def read_from_archive(path: Path, locations: WeightLocations) -> dict[str, torch.Tensor]:
    """Returns the bytes of weights in a zip archive, uint8 [number of bytes].

    Args:
        path: The archive.
        locations: Where it stores each weight.
    """
    weights = {}
    with ZipFile(path) as archive:
        for member, stored in locations.items():
            content = archive.read(member)
            for name, (offset, size) in stored.items():
                value = bytearray(content[offset : offset + size])
                weights[name] = torch.frombuffer(value, dtype=torch.uint8) if size else _EMPTY
    return weights


def weight_bytes(weights: Mapping[str, torch.Tensor], name: str, size: int) -> memoryview:
    """Returns the bytes of a weight that must fit into `size` bytes.

    Raises:
        ExportError: If the weight is absent or has another size.
    """
    if name not in weights:
        raise ExportError(f"the backbone has no weight {name!r} any more: export it again")
    content = tensor_bytes(weights[name])
    if content.nbytes != size:
        raise ExportError(
            f"weight {name!r} has {content.nbytes} bytes, and had {size} when the bundle was "
            "exported: this is another architecture, export it again"
        )
    return content


def tensor_bytes(value: torch.Tensor) -> memoryview:
    """Returns the bytes of a tensor in row-major order."""
    data: memoryview = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    return data
