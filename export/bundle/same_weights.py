"""Checks that all files of a bundle hold the same weights."""

from collections.abc import Sequence
from pathlib import Path

import torch

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.bundle.manifest import File
from mammoth_compiled.export.capture.program import first_line
from mammoth_compiled.export.formats import FORMATS

# Names of the backbone's weights begin so in all formats.
NET = "net."


def check_same_weights(directory: Path, files: Sequence[File]) -> None:
    """Checks each file's weights, and compares those that files have in common bit for bit.

    A file that is not the one that was exported may still have the hash that the manifest says.
    Golden outputs do not tell for files that cannot be run, such as `weights.safetensors`.

    Args:
        directory: The directory that holds the files.
        files: Their entries; files with converted weights are left out.

    Raises:
        ExportError: Code `damaged`, if a file cannot be read, a weight differs, is missing from a
            file or only in one, or a file has none of the others' weights; names the weight, both
            files and the difference.
    """
    first: dict[str, tuple[str, torch.Tensor]] = {}
    complete: dict[str, set[str]] = {}  # by file: names of its weights
    expected: dict[str, str] = {}  # by name: a file that has the weight
    for file in files:
        if file.format not in FORMATS:
            continue
        kind = FORMATS[file.format]
        kind.check_content(directory / file.path)
        if file.precision not in ("", "fp32"):
            continue
        try:
            stored = kind.stored_weights(directory / file.path)
        except Exception as error:  # of many types for files of another form
            raise unknown_form(file.path, error) from error
        if first and stored and not stored.keys() & first.keys():
            raise _error(directory, f"{file.path} has none of the weights of the other files")
        if kind.holds != "some":
            complete[file.path] = set(stored)
        if kind.holds == "state_dict":
            expected |= {name: file.path for name in stored if name.startswith(NET)}
        for name, value in stored.items():
            path, other = first.setdefault(name, (file.path, value))
            if reason := _difference(value, other):
                weight = name.removeprefix(NET)
                message = f"weight {weight!r} in {file.path} differs from that in {path}{reason}"
                raise _error(directory, message)
    for path, names in complete.items():
        if missing := sorted(expected.keys() - names):
            weight = missing[0].removeprefix(NET)
            raise _error(directory, f"{path} lacks weight {weight!r} of {expected[missing[0]]}")


def unknown_form(path: str, error: Exception) -> ExportError:
    """Returns the error of a file in which the weights cannot be found.

    Args:
        path: The file, relative to the bundle.
        error: What reading it raised.
    """
    return ExportError(
        f"{path} has a form that its weights cannot be found in "
        f"({type(error).__name__}: {first_line(error)}): export it again",
        "damaged",
    )


def _error(directory: Path, message: str) -> ExportError:
    return ExportError(
        f"{directory}: {message}. One of the files is not the one that was exported: export again",
        "damaged",
    )


def _difference(value: torch.Tensor, other: torch.Tensor) -> str:
    """Returns how two weights differ, "" if they do not."""
    is_typed = torch.uint8 not in (value.dtype, other.dtype)
    if is_typed and (value.dtype, value.shape) != (other.dtype, other.shape):
        kinds = (f"{v.dtype} {list(v.shape)}" for v in (value, other))
        return ": it is {} instead of {}".format(*kinds)
    one, two = _bytes(value), _bytes(other)
    if torch.equal(one, two):
        return ""
    if len(one) != len(two):
        return f": it has {len(one)} bytes instead of {len(two)}"
    # Files that store bytes alone give uint8.
    dtype = other.dtype if value.dtype == torch.uint8 else value.dtype
    if dtype == torch.uint8:
        return " in its bytes"
    gap = (one.view(dtype).double() - two.view(dtype).double()).abs().max().item()
    return f" by up to {gap:.3g}"


def _bytes(value: torch.Tensor) -> torch.Tensor:
    return value.contiguous().reshape(-1).view(torch.uint8)
