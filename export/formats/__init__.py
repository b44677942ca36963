"""The formats a backbone is exported to, one module each, by the name that users give."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch

from mammoth_compiled.errors import ExportError, unknown_name
from mammoth_compiled.export.capture.program import Source
from mammoth_compiled.export.formats import aoti, onnx, pt2, safetensors, torchscript
from mammoth_compiled.export.bundle.manifest import File
from mammoth_compiled.export.parity.compare import Run

DEFAULT = ("onnx", "pt2", "safetensors")


class Format(Protocol):
    """What a module of this package offers; files are in a folder that nobody else sees."""

    def write(self, source: Source, folder: Path) -> list[File]:
        """Writes the format's files and returns their entries, without hashes."""

    def replace_weights(
        self, path: Path, weights: Mapping[str, torch.Tensor], properties: Mapping[str, str]
    ) -> None:
        """Puts other weights into a file.

        Args:
            path: The file, changed in place.
            weights: The state_dict of the graph: `net.` and the backbone's own names.
            properties: As in `Source`.
        """


class Runnable(Protocol):
    """A format whose files compute."""

    def selections(self, file: File) -> list[tuple[str, ...]]:
        """Returns the sets of outputs that a file computes in one call."""

    def open_file(
        self, path: Path, file: File, outputs: Sequence[str], device: torch.device
    ) -> Run:
        """Returns what maps images to some outputs of a file.

        Args:
            path: Where the file is.
            file: Its entry in the manifest.
            outputs: One of the file's `selections`.
            device: Where it runs.

        Raises:
            ExportError: Code `damaged`, `hardware` or `backend`.
        """


FORMATS: dict[str, Format] = {
    "onnx": onnx,
    "pt2": pt2,
    "aoti": aoti,
    "torchscript": torchscript,
    "safetensors": safetensors,
}
RUNTIMES: dict[str, Runnable] = {
    "onnx": onnx,
    "aoti": aoti,
    "torchscript": torchscript,
    "pt2": pt2,
}
_SHORT = {"ts": "torchscript"}


def format_names(given: str | Sequence[str] | None) -> tuple[str, ...]:
    """Returns the names of formats, each once, from names or a text with commas.

    Raises:
        ExportError: If one is unknown, or there is none; lists the valid ones.
    """
    if given is None:
        return DEFAULT
    words = given.split(",") if isinstance(given, str) else given
    names = [_SHORT.get(word.strip(), word.strip()) for word in words]
    for name in names:
        if name not in FORMATS:
            raise ExportError(unknown_name("format", name, FORMATS))
    if not names:
        raise ExportError(f"no format to export to; valid: {', '.join(FORMATS)}")
    return tuple(dict.fromkeys(names))


def runtime_name(given: str) -> str:
    """Returns the name of a runtime, which is that of the format it runs.

    Raises:
        ExportError: If it is unknown; lists the valid ones.
    """
    name = _SHORT.get(given, given)
    if name not in RUNTIMES:
        raise ExportError(unknown_name("runtime", given, RUNTIMES), "backend")
    return name
