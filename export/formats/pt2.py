"""torch.export: the program in torch's own operators, to load or lower with any later torch."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from zipfile import ZipFile

import torch

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.bundle.manifest import File
from mammoth_compiled.export.capture.interface import Run
from mammoth_compiled.export.capture.program import Source, first_line, quiet
from mammoth_compiled.export.formats.base import RunnableFormat, register_format
from mammoth_compiled.export.storage.weights import (
    WeightLocations,
    read_from_archive,
    replace_in_archive,
)

FILE_NAME = "model.pt2"

# Member of the archive that maps names of weights to members.
_CONFIG = "_weights_config.json"


@register_format
class Pt2(RunnableFormat):
    """Writes `model.pt2`, a program that returns a dictionary of all outputs."""

    name = "pt2"
    description = "torch.export program, for `torch.export.load`"
    default = True
    torch_operators_only = True
    holds = "state_dict"

    def write(self, source: Source, directory: Path) -> list[File]:
        """Saves the captured program."""
        with quiet():
            torch.export.save(source.program(), directory / FILE_NAME)
        return [File(FILE_NAME, self.name, "fp32", source.graph.selected)]

    def open_model(
        self, path: Path, file: File, outputs: Sequence[str], device: torch.device
    ) -> Run:
        """Loads the program; see `RunnableFormat`."""
        program = _load(path)
        with quiet():
            if device.type != "cpu":
                from torch.export.passes import move_to_device_pass

                program = move_to_device_pass(program, str(device))
            module = program.module()

        def run(images: torch.Tensor) -> dict[str, torch.Tensor]:
            try:
                with torch.no_grad():
                    values = module(images.to(device))
            except Exception as error:  # operators may raise anything
                raise ExportError(f"the program fails: {first_line(error)}", "backend") from error
            return {name: values[name] for name in outputs}

        return run

    def stored_weights(self, path: Path) -> Mapping[str, torch.Tensor]:
        """Returns the weights in the archive; see `Format`."""
        return read_from_archive(path, _weight_locations(path))

    def replace_weights(
        self, path: Path, weights: Mapping[str, torch.Tensor], properties: Mapping[str, str]
    ) -> None:
        """Overwrites the weights in the archive; see `Format`."""
        replace_in_archive(path, _weight_locations(path), weights)


def _weight_locations(path: Path) -> WeightLocations:
    """Returns where a program stores its weights: one member each, shared by tied weights."""
    locations: dict[str, dict[str, tuple[int, int]]] = {}
    with ZipFile(path) as archive:
        (config,) = (name for name in archive.namelist() if name.endswith(_CONFIG))
        for name, entry in json.loads(archive.read(config))["config"].items():
            member = f"{config.rpartition('/')[0]}/{entry['path_name']}"
            locations.setdefault(member, {})[name] = (0, archive.getinfo(member).file_size)
    return locations


def _load(path: Path) -> torch.export.ExportedProgram:
    try:
        with quiet():
            return torch.export.load(path)
    except Exception as error:  # of many types for files that are not programs
        raise ExportError(
            f"torch {torch.__version__} cannot read {path}: {first_line(error)}", "damaged"
        ) from error
