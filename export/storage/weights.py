"""Puts weights over those in a file, all of whose other bytes stay where and what they are.

So nothing is read into a model and written again.
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

# Member of an archive to the weights in it: name to first byte and number of bytes.
Places = Mapping[str, Mapping[str, tuple[int, int]]]

# The header before a member of a zip archive: its length, and where in it a checksum and the
# lengths of the two texts behind it are.
_HEADER, _CRC, _LENGTHS = 30, 14, 26
# Set where the checksum is behind the data instead, after this mark.
_CRC_BEHIND, _MARK = 0x8, b"PK\x07\x08"


@contextlib.contextmanager
def mapped(path: Path) -> Iterator[memoryview]:
    """Gives the bytes of a file, to be changed in place."""
    with (
        path.open("r+b") as stream,
        mmap.mmap(stream.fileno(), 0) as data,
        memoryview(data) as view,
    ):
        yield view


def put_in_archive(path: Path, places: Places, weights: Mapping[str, torch.Tensor]) -> None:
    """Puts weights into a zip archive whose members are not compressed, and corrects checksums.

    Args:
        path: The archive.
        places: Where it holds which weight.
        weights: Name to value; those that it does not hold are left out.

    Raises:
        ExportError: If a weight is not given or has another size.
    """
    with ZipFile(path, "a") as archive, mapped(path) as data:
        for member, found in places.items():
            info = archive.getinfo(member)
            lengths = struct.unpack_from("<HH", data, info.header_offset + _LENGTHS)
            start = info.header_offset + _HEADER + sum(lengths)
            end = start + info.file_size
            with data[start:end] as content:
                for name, (first, size) in found.items():
                    content[first : first + size] = content_of(weights, name, size)
                info.CRC = zlib.crc32(content)
            checksum = info.header_offset + _CRC
            if info.flag_bits & _CRC_BEHIND:
                checksum = end + len(_MARK) * (data[end : end + len(_MARK)] == _MARK)
            struct.pack_into("<I", data, checksum, info.CRC)
        archive.comment = archive.comment  # has the directory written, which repeats them


def content_of(weights: Mapping[str, torch.Tensor], name: str, size: int) -> memoryview:
    """Returns the bytes of the weight that goes where one of `size` bytes was.

    Raises:
        ExportError: If it is not given or has another size.
    """
    if name not in weights:
        raise ExportError(f"the backbone has no weight {name!r} any more: export it again")
    content = as_bytes(weights[name])
    if content.nbytes != size:
        raise ExportError(
            f"weight {name!r} has {content.nbytes} bytes, and had {size} when the bundle was "
            "exported: the backbone is another one, export it again"
        )
    return content


def as_bytes(value: torch.Tensor) -> memoryview:
    """Returns the bytes of a tensor in the order of its axes."""
    data: memoryview = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    return data
