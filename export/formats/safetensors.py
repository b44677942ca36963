"""safetensors: the backbone's state_dict, for whoever has its code; no code in the file."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from mammoth_compiled.export.capture.program import Source
from mammoth_compiled.export.bundle.manifest import File
from mammoth_compiled.export.storage.weights import content_of, mapped

FILE_NAME = "weights.safetensors"
PREFIX = "net."


def write(source: Source, folder: Path) -> list[File]:
    """Writes `weights.safetensors`."""
    from safetensors.torch import save

    state = {
        # Copies: the format refuses tensors that share memory, as tied weights do.
        name.removeprefix(PREFIX): value.detach().cpu().contiguous().clone()
        for name, value in source.graph.state_dict().items()
        if name.startswith(PREFIX)
    }
    (folder / FILE_NAME).write_bytes(save(state, metadata={"format": "pt"}))
    return [File(FILE_NAME, "safetensors")]


def replace_weights(
    path: Path, weights: Mapping[str, torch.Tensor], properties: Mapping[str, str]
) -> None:
    """Puts other weights into a file; see `formats.Format`."""
    with mapped(path) as data:
        first = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(bytes(data[8:first]))
        del header["__metadata__"]
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            data[first + start : first + end] = content_of(weights, PREFIX + name, end - start)


def read(path: Path) -> dict[str, torch.Tensor]:
    """Returns the backbone's state_dict."""
    from safetensors.torch import load

    return load(path.read_bytes())
