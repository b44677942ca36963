"""verify_bundle: checks the files, hashes and golden outputs of a bundle on any machine."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.bundle.directory import recover
from mammoth_compiled.export.bundle.hashes import check_file
from mammoth_compiled.export.bundle.manifest import File, Manifest
from mammoth_compiled.export.bundle.manifest_reader import read_manifest
from mammoth_compiled.export.bundle.same_weights import check_same_weights
from mammoth_compiled.export.formats import runtime_name, runtime_of
from mammoth_compiled.export.load import parse_device
from mammoth_compiled.export.parity.compare import FLOAT64, Exact, ReferenceBatch, compare
from mammoth_compiled.export.parity.measure import open_model


@dataclass(frozen=True)
class Result:
    """The outcome for one model file.

    Attributes:
        path: The file, relative to the bundle.
        text: Its distance from the golden outputs, or why it was not run.
        checked: Whether it was run.
    """

    path: str
    text: str
    checked: bool


def verify_bundle(
    bundle: str | os.PathLike[str],
    runtimes: Sequence[str] | None = None,
    device: str | torch.device = "cpu",
) -> list[Result]:
    """Compares all files of a bundle with its manifest, and its models with the golden outputs.

    Args:
        bundle: The directory.
        runtimes: The runtimes that must work: `onnx`, `aoti`, `pt2`, `torchscript`. None runs
            those that this machine has and skips the others.
        device: Where files compiled for a device run.

    Returns:
        One result per model file.

    Raises:
        ExportError: If a file is missing or damaged, files hold different weights, an output
            differs, or a required runtime does not work.
    """
    directory = Path(bundle)
    recover(directory)
    manifest = read_manifest(directory)
    device = parse_device(device)
    required = None if runtimes is None else [runtime_name(name) for name in runtimes]
    for file in manifest.files:
        check_file(directory, file)
    check_same_weights(directory, manifest.files)
    golden = _read_golden(directory, manifest)
    missing = set(required or ()) - {file.format for file in manifest.models}
    if missing:
        raise ExportError(f"the bundle has no file for runtime {sorted(missing)[0]!r}", "missing")
    results = []
    for file in manifest.models:
        if required is not None and file.format not in required:
            continue
        try:
            results.append(_verify_file(directory, file, golden, device))
        except ExportError as error:
            # This machine may lack what a file needs, unless the caller requires its runtime.
            if required is not None or error.code not in ("hardware", "backend"):
                raise
            results.append(Result(file.path, f"skipped: {error}", False))
    return results


def _verify_file(
    directory: Path, file: File, golden: ReferenceBatch, device: torch.device
) -> Result:
    worst = 0.0
    for outputs in runtime_of(file).output_sets(file):
        run = open_model(directory, file, outputs, device)
        if file.precision == "fp32":
            differences = compare(run, [golden], outputs, file.path, _recorded_bounds(file, golden))
            worst = max([worst, *(difference.size for difference in differences.values())])
        else:
            worst = max(worst, _compare_variant(file, run(golden.images), golden))
    return Result(file.path, f"within {worst:.1e} of the golden outputs", True)


def _recorded_bounds(file: File, golden: ReferenceBatch) -> Exact:
    """Returns the golden outputs with the bounds from the export where it needed float64.

    Golden outputs are within rounding of float64, and there is no backbone to compute it again.
    """

    def golden_output(name: str, _: torch.Tensor) -> tuple[torch.Tensor, float] | None:
        recorded = file.parity.get(name)
        if recorded is None or recorded.reference != FLOAT64:
            return None
        return golden.outputs[name].double(), recorded.bound

    return golden_output


def _compare_variant(
    file: File, values: Mapping[str, torch.Tensor], golden: ReferenceBatch
) -> float:
    """Returns the largest difference of a variant; 1.5 times that at export is admissible."""
    worst = 0.0
    for name in file.outputs:
        size = (values[name].cpu() - golden.outputs[name]).abs().max().item()
        if name not in file.parity:
            raise ExportError(
                f"the manifest does not say how much {file.path} may differ: export again",
                "damaged",
            )
        limit = 1.5 * max(file.parity[name].bound, file.parity[name].size)
        if not size <= limit:
            raise ExportError(
                f"{file.path}: output {name!r} of the golden input differs by {size:.3g}, and the "
                f"limit from its export is {limit:.3g}"
            )
        worst = max(worst, size)
    return worst


def _read_golden(directory: Path, manifest: Manifest) -> ReferenceBatch:
    interface = manifest.interface
    if not manifest.golden_input:
        raise ExportError(f"the bundle {directory} has no golden outputs: export again", "missing")
    images = _read_array(directory, manifest.golden_input)
    outputs = {name: _read_array(directory, path) for name, path in manifest.golden_outputs.items()}
    if (
        images.dtype != interface.dtype
        or images.shape[1:] != interface.item_shape
        or len(images) == 0
    ):
        raise ExportError(f"{manifest.golden_input} is not an input of this bundle", "damaged")
    for name, values in outputs.items():
        if values.shape != (len(images), *interface.outputs[name]):
            raise ExportError(
                f"{manifest.golden_outputs[name]} is not {name!r} of {len(images)} images",
                "damaged",
            )
    return ReferenceBatch("golden", images, outputs)


def _read_array(directory: Path, path: str) -> torch.Tensor:
    try:
        # Mapped, so that a header that claims a huge array does not allocate it.
        with np.errstate(over="raise"):
            mapped = np.load(directory / path, mmap_mode="r", allow_pickle=False)
        return torch.from_numpy(np.array(mapped))
    except (ValueError, TypeError, EOFError, OSError, ArithmeticError, MemoryError) as error:
        raise ExportError(f"{directory / path} is not a NumPy file: {error}", "damaged") from error
