"""torch.export: the program in torch's own operators, for any torch and whatever it lowers to."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from zipfile import ZipFile

import torch

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.capture.program import Source, check_portable, first_line, quiet
from mammoth_compiled.export.bundle.manifest import File
from mammoth_compiled.export.parity.compare import Run
from mammoth_compiled.export.storage.weights import Places, put_in_archive

FILE_NAME = "model.pt2"

# Where an archive says which of its members is which weight.
_CONFIG = "_weights_config.json"


def write(source: Source, folder: Path) -> list[File]:
    """Writes `model.pt2`, which returns a dictionary of all outputs.

    Raises:
        ExportError: If the backbone needs operators that torch itself does not have.
    """
    program = source.program()
    check_portable(program, source.graph.net)
    with quiet():
        torch.export.save(program, folder / FILE_NAME)
    return [File(FILE_NAME, "pt2", "fp32", source.graph.selected)]


def open_file(path: Path, file: File, outputs: Sequence[str], device: torch.device) -> Run:
    """Returns what runs a program; see `formats.Runnable`."""
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
        except Exception as error:  # whatever the operators raise
            raise ExportError(f"the program fails: {first_line(error)}", "backend") from error
        return {name: values[name] for name in outputs}

    return run


def selections(file: File) -> list[tuple[str, ...]]:
    """Returns the outputs of the file, all at once; see `formats.Runnable`."""
    return [file.outputs]


def replace_weights(
    path: Path, weights: Mapping[str, torch.Tensor], properties: Mapping[str, str]
) -> None:
    """Puts other weights into a program; see `formats.Format`."""
    put_in_archive(path, _places(path), weights)


def _places(path: Path) -> Places:
    """Returns where a program holds its weights: each in a member of its own, tied ones in one."""
    places: dict[str, dict[str, tuple[int, int]]] = {}
    with ZipFile(path) as archive:
        (config,) = (name for name in archive.namelist() if name.endswith(_CONFIG))
        for name, entry in json.loads(archive.read(config))["config"].items():
            member = f"{config.rpartition('/')[0]}/{entry['path_name']}"
            places.setdefault(member, {})[name] = (0, archive.getinfo(member).file_size)
    return places


def _load(path: Path) -> torch.export.ExportedProgram:
    try:
        with quiet():
            return torch.export.load(path)
    except Exception as error:  # of many kinds, for what is no program
        raise ExportError(
            f"torch {torch.__version__} cannot read {path}: {first_line(error)}", "damaged"
        ) from error
