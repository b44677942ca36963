"""Checks a bundle anywhere: form, hashes, and its golden values through every runtime there is."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.formats import RUNTIMES, runtime_name
from mammoth_compiled.export.load import parse_device
from mammoth_compiled.export.bundle.manifest import File, Manifest, check_file, read_manifest
from mammoth_compiled.export.parity.evidence import open_run
from mammoth_compiled.export.parity.compare import Case, compare


@dataclass(frozen=True)
class Result:
    """What came out for one model file.

    Attributes:
        path: The file.
        text: How far it is from the golden outputs, or why it was left out.
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
    """Compares all files of a bundle with its manifest and golden values.

    Args:
        bundle: The directory.
        runtimes: Which must be run: `onnx`, `aoti`, `pt2`, `torchscript`; None runs those that
            this machine has and leaves the others out.
        device: Where files for a device run.

    Returns:
        One entry for each model file.

    Raises:
        ExportError: If a file is missing or damaged, an output differs, or a runtime asked for
            cannot be run.
    """
    folder = Path(bundle)
    manifest = read_manifest(folder)
    place = parse_device(device)
    wanted = None if runtimes is None else [runtime_name(name) for name in runtimes]
    for file in manifest.files:
        check_file(folder, file)
    case = _golden(folder, manifest)
    models = [file for file in manifest.files if file.is_model]
    lacking = set(wanted or ()) - {file.format for file in models}
    if lacking:
        raise ExportError(f"the bundle has no file for runtime {sorted(lacking)[0]!r}", "missing")
    results = []
    for file in models:
        if wanted is not None and file.format not in wanted:
            continue
        try:
            results.append(_check(folder, file, case, place))
        except ExportError as error:
            # A machine may lack what one file needs; what was asked for it must have.
            if wanted is not None or error.code not in ("hardware", "backend"):
                raise
            results.append(Result(file.path, f"left out: {error}", False))
    return results


def _check(folder: Path, file: File, case: Case, device: torch.device) -> Result:
    worst = 0.0
    for outputs in RUNTIMES[file.format].selections(file):
        run = open_run(folder, file, outputs, device)
        if file.precision == "fp32":
            found = compare(run, [case], outputs, file.path)
            worst = max([worst, *(difference.size for difference in found.values())])
        else:
            worst = max(worst, _compare_variant(file, run(case.images), case))
    return Result(file.path, f"within {worst:.1e} of the golden outputs", True)


def _compare_variant(file: File, got: Mapping[str, torch.Tensor], case: Case) -> float:
    """Returns how far a smaller variant is; it may be as far as it was at export, and half more."""
    worst = 0.0
    for name in file.outputs:
        size = (got[name].cpu() - case.wanted[name]).abs().max().item()
        limit = 1.5 * max(file.parity[name].bound, file.parity[name].size)
        if not size <= limit:
            raise ExportError(
                f"{file.path}: output {name!r} of the golden input differs by {size:.3g}, and at "
                f"export it was at most {limit:.3g}"
            )
        worst = max(worst, size)
    return worst


def _golden(folder: Path, manifest: Manifest) -> Case:
    interface = manifest.interface
    images = _read(folder, manifest.golden_input)
    wanted = {name: _read(folder, path) for name, path in manifest.golden_outputs.items()}
    if images.dtype != interface.dtype or images.shape[1:] != interface.item_shape:
        raise ExportError(f"{manifest.golden_input} is no input of this bundle", "damaged")
    return Case("golden", images, wanted)


def _read(folder: Path, path: str) -> torch.Tensor:
    try:
        return torch.from_numpy(np.load(folder / path, allow_pickle=False))
    except (ValueError, TypeError, EOFError) as error:
        raise ExportError(f"{folder / path} is no NumPy file: {error}", "damaged") from error
