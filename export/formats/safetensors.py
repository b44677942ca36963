"""safetensors: the backbone's state_dict, for whoever has its code; no code in the file."""

from collections.abc import Mapping
from pathlib import Path

import torch

from mammoth_compiled.export.capture import Source
from mammoth_compiled.export.manifest import File

FILE_NAME = "weights.safetensors"
PREFIX = "net."


def write(source: Source, folder: Path) -> list[File]:
    """Writes `weights.safetensors`."""
    replace_weights(folder / FILE_NAME, source.graph.state_dict(), source.properties)
    return [File(FILE_NAME, "safetensors")]


def replace_weights(
    path: Path, weights: Mapping[str, torch.Tensor], properties: Mapping[str, str]
) -> None:
    """Writes the backbone's weights; see `formats.Format`."""
    from safetensors.torch import save

    state = {
        # Copies: the format refuses tensors that share memory, as tied weights do.
        name.removeprefix(PREFIX): value.detach().cpu().contiguous().clone()
        for name, value in weights.items()
        if name.startswith(PREFIX)
    }
    path.write_bytes(save(state, metadata={"format": "pt"}))


def read(path: Path) -> dict[str, torch.Tensor]:
    """Returns the backbone's state_dict."""
    from safetensors.torch import load

    return load(path.read_bytes())
