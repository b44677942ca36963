"""Opens model files as a user would, and measures how far their outputs are from eager mode."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from mammoth_compiled.export.bundle.manifest import File
from mammoth_compiled.export.capture.interface import Run
from mammoth_compiled.export.formats import runtime_of
from mammoth_compiled.export.parity.compare import Difference, compare
from mammoth_compiled.export.parity.reference import ReferenceData


def measure_parity(
    directory: Path, files: Sequence[File], reference: ReferenceData, device: torch.device
) -> list[File]:
    """Compares all outputs of the float32 model files with eager mode.

    Args:
        directory: The directory that holds the files.
        files: Entries of model files and others.
        reference: The batches to compare on.
        device: Where files compiled for a device run; portable files run on the CPU.

    Returns:
        The entries, with the measured differences.

    Raises:
        ExportError: If an output differs; names file, output, batch and difference.
    """
    return [
        replace(file, parity=_worst_differences(directory, file, reference, device))
        if file.is_model and file.precision == "fp32"
        else file
        for file in files
    ]


def open_model(
    directory: Path,
    file: File,
    outputs: Sequence[str] | None = None,
    device: torch.device = torch.device("cpu"),  # noqa: B008 (immutable)
) -> Run:
    """Opens a model file.

    Args:
        directory: The directory that holds the file.
        file: Its entry.
        outputs: One of the file's output sets; None takes the first, which has `out` if any has.
        device: Where a file compiled for a device runs; portable files run on the CPU.
    """
    runtime = runtime_of(file)
    if file.requires.get("device") != device.type:
        device = torch.device("cpu")
    if outputs is None:
        outputs = runtime.output_sets(file)[0]
    return runtime.open_model(directory / file.path, file, outputs, device)


def _worst_differences(
    directory: Path, file: File, reference: ReferenceData, device: torch.device
) -> dict[str, Difference]:
    worst: dict[str, Difference] = {}
    for outputs in runtime_of(file).output_sets(file):
        run = open_model(directory, file, outputs, device)
        differences = compare(run, reference.batches, outputs, file.path, reference.exact)
        for name, found in differences.items():
            if found.exceeds(worst.get(name)):
                worst[name] = found
    return {name: worst[name] for name in file.outputs}
