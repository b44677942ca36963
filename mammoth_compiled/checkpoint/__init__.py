"""The checkpoint file: written atomically, checked wholly, and read without running code."""

from mammoth_compiled.checkpoint.file import (
    FORMAT,
    VERSION,
    add_checksum,
    pack,
    read_checkpoint,
    unpack,
    write_checkpoint,
)
from mammoth_compiled.checkpoint.weights import load_copy

__all__ = [
    "FORMAT",
    "VERSION",
    "add_checksum",
    "load_copy",
    "pack",
    "read_checkpoint",
    "unpack",
    "write_checkpoint",
]
