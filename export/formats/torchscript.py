"""TorchScript, with methods named after the return types. Deprecated by torch, but widely used."""

import contextlib
import functools
import io
import pickle
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from torch import nn

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.bundle.manifest import File
from mammoth_compiled.export.capture.graph import NamedOutputs
from mammoth_compiled.export.capture.interface import Run
from mammoth_compiled.export.capture.program import Source, explain, first_line, quiet
from mammoth_compiled.export.capture.specialization import user_line
from mammoth_compiled.export.formats.base import MultiEntryFormat, register_format
from mammoth_compiled.export.parity.compare import compare, make_batches
from mammoth_compiled.export.storage.weights import (
    WeightLocations,
    read_from_archive,
    replace_in_archive,
)
from mammoth_compiled.export.storage.zip_archive import read_members, write_members

FILE_NAME = "model.ts.pt"


@register_format
class TorchScript(MultiEntryFormat):
    """Writes `model.ts.pt`, a traced module with one method per return type."""

    name = "torchscript"
    description = "TorchScript module, for `torch.jit.load`"
    aliases = ("ts",)
    torch_operators_only = True
    holds = "more"

    def write(self, source: Source, directory: Path) -> list[File]:
        """Traces the graph once per return type."""
        graph = source.graph
        example = graph.interface.example(2)
        try:
            with quiet(), torch.no_grad(), _recorded_numbers() as lines:
                traced = torch.jit.trace_module(
                    _Methods(graph),
                    dict.fromkeys(map(str, graph.interface.supports), example),
                    check_trace=False,
                )
                traced.save(str(directory / FILE_NAME))
        except Exception as error:
            raise ExportError(explain(error, graph.net, "TorchScript")) from None
        _drop_debug_records(directory / FILE_NAME)
        file = File(FILE_NAME, self.name, "fp32", graph.selected)
        if lines:
            self._check_numbers(directory, file, graph, lines)
        return [file]

    def _check_numbers(
        self, directory: Path, file: File, graph: NamedOutputs, lines: Sequence[str]
    ) -> None:
        """Refuses a module that holds numbers of the example, and names the lines."""
        outputs = self.output_sets(file)[0]
        run = self.open_model(directory / file.path, file, outputs, torch.device("cpu"))
        batches = make_batches(graph.compute_alone, graph.interface, batch_sizes=(1, 3))
        try:
            compare(run, batches, outputs)
        except ExportError:
            raise ExportError(
                f"backbone {type(graph.net).__name__} cannot be exported to TorchScript, which "
                f"keeps Python numbers as they are for one example{lines[0]}. Take sizes from "
                "x.shape, and leave values in tensors; or leave out torchscript"
            ) from None

    def open_model(
        self, path: Path, file: File, outputs: Sequence[str], device: torch.device
    ) -> Run:
        """Loads the module; see `RunnableFormat`."""
        module = _load(path, device)
        names, method = tuple(outputs), self.entry_of(file, outputs)

        def run(images: torch.Tensor) -> dict[str, torch.Tensor]:
            try:
                with torch.no_grad():
                    values = getattr(module, method)(images.to(device))
            except Exception as error:  # operators may raise anything
                raise ExportError(f"TorchScript fails: {first_line(error)}", "backend") from error
            return dict(zip(names, values if len(names) > 1 else (values,), strict=True))

        return run

    def replace_weights(
        self, path: Path, weights: Mapping[str, torch.Tensor], properties: Mapping[str, str]
    ) -> None:
        """Overwrites the weights in the archive; see `Format`."""
        locations = {
            # Constants of the graph are stored likewise.
            member: {name: place for name, place in stored.items() if name in weights}
            for member, stored in _weight_locations(path).items()
        }
        replace_in_archive(path, {m: stored for m, stored in locations.items() if stored}, weights)

    def stored_weights(self, path: Path) -> Mapping[str, torch.Tensor]:
        """Returns the weights in the archive, and constants of the graph; see `Format`."""
        return read_from_archive(path, _weight_locations(path))


@contextlib.contextmanager
def _recorded_numbers() -> Iterator[list[str]]:
    """Yields a list of the lines of user code that make numbers of tensors while tracing."""
    lines: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", torch.jit.TracerWarning)
        yield lines
    for warning in caught:
        frame = traceback.FrameSummary(warning.filename, warning.lineno, "")
        if where := user_line([frame]):
            lines.append(where)


class _Methods(nn.Module):
    """A graph with a method per return type, which returns a tensor or a tuple of tensors."""

    def __init__(self, graph: NamedOutputs) -> None:
        super().__init__()
        self.graph = graph
        for returnt, outputs in graph.interface.entries.items():
            setattr(self, str(returnt), functools.partial(self._compute, outputs))

    def _compute(self, outputs: Sequence[str], input: torch.Tensor) -> Any:
        values = tuple(self.graph.compute(input, outputs).values())
        return values[0] if len(values) == 1 else values


class _Object:
    """Placeholder for any pickled object; its attributes are the pickled ones."""

    def __init__(self, *args: Any) -> None:
        pass


@dataclass(frozen=True)
class _Storage:
    """Placeholder for a tensor: the member of the archive that holds its values."""

    key: str


class _StructureUnpickler(pickle.Unpickler):
    """Reads which tensors a module consists of, without running any of its code."""

    def find_class(self, module: str, name: str) -> Any:
        return _first if name == "_rebuild_tensor_v2" else _Object

    def persistent_load(self, pid: Any) -> _Storage:
        return _Storage(pid[2])


def _first(storage: _Storage, *_: Any) -> _Storage:
    return storage


def _storages(module: _Object, prefix: str = "") -> Iterator[tuple[str, _Storage]]:
    """Yields all tensors of a module, with their names in its state_dict."""
    for name, value in vars(module).items():
        if isinstance(value, _Storage):
            yield prefix + name, value
        elif isinstance(value, _Object):
            yield from _storages(value, f"{prefix}{name}.")


def _weight_locations(path: Path) -> WeightLocations:
    """Returns where a module stores its tensors: one member each, shared by tied weights."""
    locations: dict[str, dict[str, tuple[int, int]]] = {}
    with ZipFile(path) as archive:
        (index,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        module = _StructureUnpickler(io.BytesIO(archive.read(index))).load()
        for name, storage in _storages(module.graph):
            member = f"{index.removesuffix('.pkl')}/{storage.key}"
            locations.setdefault(member, {})[name] = (0, archive.getinfo(member).file_size)
    return locations


def _load(path: Path, device: torch.device) -> Any:
    try:
        with quiet():
            return torch.jit.load(str(path), map_location=device)
    except Exception as error:  # of many types for files that are not TorchScript
        raise ExportError(
            f"torch {torch.__version__} cannot read {path}: {first_line(error)}", "damaged"
        ) from error


def _drop_debug_records(path: Path) -> None:
    """Removes the source locations of operators, which hold paths of this machine."""
    members = read_members(path)
    write_members(path, {n: data for n, data in members.items() if not n.endswith(".debug_pkl")})
