"""What an export format declares and implements, and the registry of formats.

To add a format, write one module in this package: a class derived from `Format`, or from
`RunnableFormat` if its files can be run, with the decorator `register_format`. Everything else
finds it through the registry: command lines, writing, verifying, loading and updating bundles, the
manifest and the README of a bundle.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

import torch

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.bundle.manifest import GOLDEN, TEXT, File, Manifest
from mammoth_compiled.export.capture.interface import Run, entries_of
from mammoth_compiled.export.capture.program import Source


class Format(ABC):
    """A file format that backbones are exported to.

    Attributes:
        name: What users call the format; also the `format` of its files in the manifest.
        description: What a file of this format is, for the README of a bundle.
        aliases: Other names that users may give.
        default: Whether it is written if the user names no formats.
        torch_operators_only: Whether its files can hold only the operators of torch itself.
            Backbones that call others are then refused before `write`.
        holds: The weights in a file: those of the `state_dict`, these and buffers that it leaves
            out ("more"), or those that are left of them ("some").
    """

    name: ClassVar[str]
    description: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    default: ClassVar[bool] = False
    torch_operators_only: ClassVar[bool] = False
    holds: ClassVar[Literal["state_dict", "more", "some"]] = "some"

    @abstractmethod
    def write(self, source: Source, directory: Path) -> list[File]:
        """Writes the format's files.

        Args:
            source: The graph to write.
            directory: A directory that no one else can see yet.

        Returns:
            The manifest entries of the files, without hashes.

        Raises:
            ExportError: If the backbone cannot be expressed in this format.
        """

    @abstractmethod
    def replace_weights(
        self, path: Path, weights: Mapping[str, torch.Tensor], properties: Mapping[str, str]
    ) -> None:
        """Replaces the weights in a file, without tracing or compiling again.

        Args:
            path: The file, changed in place.
            weights: The state_dict of the graph; the backbone's weights start with `net.`.
            properties: As in `Source`.

        Raises:
            ExportError: If a weight is absent or has another size.
        """

    def stored_weights(self, path: Path) -> Mapping[str, torch.Tensor]:
        """Returns the weights in a file, by their names in the state_dict of the graph.

        A format that does not know their dtype returns their bytes, uint8. By default none are
        returned, and the weights of a file are not compared with those of others.
        """
        return {}

    def check_content(self, path: Path) -> None:  # noqa: B027 (optional)
        """Checks that a file whose hash is right can be read; files that can be run need not.

        Raises:
            ExportError: Code `damaged`.
        """

    def check_installed(self) -> None:  # noqa: B027 (optional)
        """Checks that the packages needed to write and verify the format are installed.

        Raises:
            ExportError: Code `backend`; says how to install them.
        """

    def versions(self) -> dict[str, str]:
        """Returns versions to record in the manifest, besides those of torch and this package."""
        return {}

    def example(self, manifest: Manifest) -> str:
        """Returns a section of the bundle's README that shows how to use the format's files.

        Args:
            manifest: The bundle's description, with all its files.
        """
        return ""


class RunnableFormat(Format):
    """A format whose files can be run, which makes its name a `runtime` of `load_bundle`."""

    @abstractmethod
    def open_model(
        self, path: Path, file: File, outputs: Sequence[str], device: torch.device
    ) -> Run:
        """Loads a file.

        Args:
            path: The file.
            file: Its entry in the manifest.
            outputs: The outputs to compute, one of the file's `output_sets`.
            device: Where to run.

        Returns:
            A function that maps images to the outputs by name.

        Raises:
            ExportError: Code `damaged`, `hardware` or `backend`.
        """

    def output_sets(self, file: File) -> list[tuple[str, ...]]:
        """Returns the sets of outputs that one call of a file can compute.

        By default a file computes all its outputs at once.
        """
        return [file.outputs]


class MultiEntryFormat(RunnableFormat):
    """A format whose files have one entry per return type: `out`, `features`, `both`, `full`."""

    def output_sets(self, file: File) -> list[tuple[str, ...]]:
        """Returns the outputs of every entry."""
        return list(entries_of(file.outputs).values())

    @staticmethod
    def entry_of(file: File, outputs: Sequence[str]) -> str:
        """Returns the name of the entry that computes the given outputs."""
        entries = entries_of(file.outputs).items()
        return next(str(returnt) for returnt, names in entries if names == tuple(outputs))


FORMATS: dict[str, Format] = {}

FormatClass = TypeVar("FormatClass", bound=type[Format])


def register_format(cls: FormatClass) -> FormatClass:
    """Registers a format class under its `name`.

    Registering the same class again, as when a notebook cell runs twice, replaces it.

    Raises:
        ExportError: If the name or an alias belongs to another format.
    """
    others = [other for other in FORMATS.values() if _origin(type(other)) != _origin(cls)]
    taken = {name for other in others for name in (other.name, *other.aliases)} | {GOLDEN, TEXT}
    for name in (cls.name, *cls.aliases):
        if name in taken:
            raise ExportError(f"{cls.__qualname__}: the format name {name!r} is already in use")
    FORMATS[cls.name] = cls()
    return cls


def _origin(cls: type[Format]) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__
