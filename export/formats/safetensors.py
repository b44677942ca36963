"""safetensors: the backbone's state_dict. The file holds no code; whoever loads it needs some."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.bundle.manifest import File
from mammoth_compiled.export.capture.program import Source
from mammoth_compiled.export.formats.base import Format, register_format
from mammoth_compiled.export.storage.weights import weight_bytes, writable_bytes

FILE_NAME = "weights.safetensors"
PREFIX = "net."
# In the metadata: the hash of names, dtypes and shapes.
LAYOUT = "layout"


def _layout(state: Mapping[str, torch.Tensor]) -> str:
    lines = (f"{name} {value.dtype} {list(value.shape)}" for name, value in sorted(state.items()))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@register_format
class Safetensors(Format):
    """Writes `weights.safetensors`."""

    name = "safetensors"
    description = "weights only, without code"
    default = True
    holds = "state_dict"

    def write(self, source: Source, directory: Path) -> list[File]:
        """Writes the state_dict of the backbone."""
        from safetensors.torch import save

        state = {
            # Cloned, because safetensors refuses tensors that share memory, as tied weights do.
            name.removeprefix(PREFIX): value.detach().cpu().contiguous().clone()
            for name, value in source.graph.state_dict().items()
            if name.startswith(PREFIX)
        }
        metadata = {"format": "pt", LAYOUT: _layout(state)}
        (directory / FILE_NAME).write_bytes(save(state, metadata=metadata))
        return [File(FILE_NAME, self.name)]

    def check_content(self, path: Path) -> None:
        """Reads the header and every value; see `Format`."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as weights:
                values = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118
                written = (weights.metadata() or {}).get(LAYOUT)
        except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
            raise ExportError(f"{path} is not a safetensors file: {error}", "damaged") from error
        if written not in (None, _layout(values)):  # earlier releases wrote none
            raise ExportError(
                f"{path} has other weights than were written: names, dtypes or shapes differ. "
                "Export again",
                "damaged",
            )
        for name, value in values.items():
            if value.isnan().any():  # infinite values may be a mask
                raise ExportError(f"{path}: weight {name!r} holds NaN", "damaged")

    def stored_weights(self, path: Path) -> Mapping[str, torch.Tensor]:
        """Returns all values; see `Format`."""
        from safetensors.torch import load_file

        return {PREFIX + name: value for name, value in load_file(path).items()}

    def replace_weights(
        self, path: Path, weights: Mapping[str, torch.Tensor], properties: Mapping[str, str]
    ) -> None:
        """Overwrites the values; see `Format`."""
        with writable_bytes(path) as data:
            # Eight bytes with the length of the JSON header, the header, then the values.
            first = 8 + int.from_bytes(data[:8], "little")
            header = json.loads(bytes(data[8:first]))
            del header["__metadata__"]
            for name, entry in header.items():
                start, end = entry["data_offsets"]
                data[first + start : first + end] = weight_bytes(
                    weights, PREFIX + name, end - start
                )
