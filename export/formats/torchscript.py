"""TorchScript with the methods out, features and both; a format that torch has deprecated."""

import functools
import io
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from torch import nn

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.storage.zip_archive import read, rewrite
from mammoth_compiled.export.capture.program import Source, check_portable, explain, first_line, quiet
from mammoth_compiled.export.capture.graph import NamedOutputs
from mammoth_compiled.export.capture.interface import entries_of
from mammoth_compiled.export.bundle.manifest import File
from mammoth_compiled.export.parity.compare import Run
from mammoth_compiled.export.storage.weights import put_in_archive

FILE_NAME = "model.ts.pt"


class _Methods(nn.Module):
    """A graph with a method for every return type, which gives a tensor or a tuple of them."""

    def __init__(self, graph: NamedOutputs) -> None:
        super().__init__()
        self.graph = graph
        for returnt, outputs in graph.interface.entries.items():
            setattr(self, str(returnt), functools.partial(self._answer, outputs))

    def _answer(self, outputs: Sequence[str], input: torch.Tensor) -> Any:
        values = tuple(self.graph.compute(input, outputs).values())
        return values[0] if len(values) == 1 else values


def write(source: Source, folder: Path) -> list[File]:
    """Writes `model.ts.pt`.

    Raises:
        ExportError: If the backbone cannot be traced.
    """
    graph = source.graph
    check_portable(source.program(), graph.net)
    example = graph.interface.example(2)
    try:
        with quiet(), torch.no_grad():
            traced = torch.jit.trace_module(
                _Methods(graph),
                dict.fromkeys(map(str, graph.interface.supports), example),
                check_trace=False,
            )
            traced.save(str(folder / FILE_NAME))
    except Exception as error:
        raise ExportError(explain(error, graph.net, "TorchScript")) from None
    _drop_sources(folder / FILE_NAME)
    return [File(FILE_NAME, "torchscript", "fp32", graph.selected)]


def open_file(path: Path, file: File, outputs: Sequence[str], device: torch.device) -> Run:
    """Returns what runs a traced module; see `formats.Runnable`."""
    module = _load(path, device)
    names = tuple(outputs)
    method = next(str(r) for r, given in entries_of(file.outputs).items() if given == names)

    def run(images: torch.Tensor) -> dict[str, torch.Tensor]:
        try:
            with torch.no_grad():
                values = getattr(module, method)(images.to(device))
        except Exception as error:  # whatever the operators raise
            raise ExportError(f"TorchScript fails: {first_line(error)}", "backend") from error
        return dict(zip(names, values if len(names) > 1 else (values,), strict=True))

    return run


def selections(file: File) -> list[tuple[str, ...]]:
    """Returns the outputs of every method; see `formats.Runnable`."""
    return list(entries_of(file.outputs).values())


def replace_weights(
    path: Path, weights: Mapping[str, torch.Tensor], properties: Mapping[str, str]
) -> None:
    """Puts other weights into a traced module; see `formats.Format`."""
    places: dict[str, dict[str, tuple[int, int]]] = {}
    with ZipFile(path) as archive:
        (index,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        module = _Unpickler(io.BytesIO(archive.read(index))).load()
        for name, storage in _storages(module.graph):
            if name in weights:  # constants of the graph are here too
                member = f"{index.removesuffix('.pkl')}/{storage.key}"
                places.setdefault(member, {})[name] = (0, archive.getinfo(member).file_size)
    put_in_archive(path, places, weights)


class _Object:
    """Stands for whatever an archive holds."""

    def __init__(self, *args: Any) -> None:
        pass


@dataclass(frozen=True)
class _Storage:
    """Stands for a tensor: the member of the archive that is its content."""

    key: str


class _Unpickler(pickle.Unpickler):
    """Reads what a module consists of, and runs none of it."""

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


def _load(path: Path, device: torch.device) -> Any:
    try:
        with quiet():
            return torch.jit.load(str(path), map_location=device)
    except Exception as error:  # of many kinds, for what is no TorchScript
        raise ExportError(
            f"torch {torch.__version__} cannot read {path}: {first_line(error)}", "damaged"
        ) from error


def _drop_sources(path: Path) -> None:
    """Removes the records of which line of which file an operator came from."""
    members = read(path)
    rewrite(path, {name: members[name] for name in members if not name.endswith(".debug_pkl")})
