"""Adds smaller variants to a bundle, and measures the accuracy of its models."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.bundle.manifest import File, Manifest
from mammoth_compiled.export.capture.interface import Run
from mammoth_compiled.export.formats.onnx import FILE_NAME
from mammoth_compiled.export.parity.compare import Difference
from mammoth_compiled.export.parity.measure import open_model
from mammoth_compiled.export.parity.reference import ReferenceData
from mammoth_compiled.export.variants.convert import convert, file_name
from mammoth_compiled.export.variants.fidelity import accuracy, check_accuracy, compare_variant

# Enough images to judge a variant by.
MAX_COMPARED = 512


def add_variants(
    directory: Path,
    files: Sequence[File],
    kinds: Sequence[str],
    reference: ReferenceData,
    manifest: Manifest,
) -> list[File]:
    """Writes variants of `model.onnx`; measures their accuracy and that of the float32 model.

    Args:
        directory: The directory that holds the files.
        files: The entries of all files so far, with measured parity.
        kinds: `fp16`, `int8`.
        reference: Images for calibration, comparison and accuracy.
        manifest: The class of each column, and the classes seen.

    Returns:
        The entries of all files.

    Raises:
        ExportError: If there is no `model.onnx`, images are missing, or a variant differs too much
            from float32.
    """
    models = [file for file in files if file.is_model]
    if not models or not (kinds or reference.test_set):
        return list(files)
    source = next((file for file in models if file.path == FILE_NAME), models[0])
    run = open_model(directory, source)
    entries = {file.path: file for file in files}
    expected = _accuracy(run, reference, manifest)
    entries[source.path] = replace(source, accuracy=expected)
    images = _comparison_images(reference)
    for kind in kinds:
        if source.path != FILE_NAME:
            raise ExportError(f"variant {kind!r} is made from ONNX: add onnx to the formats")
        calibration = None if reference.calibration is None else reference.calibration.numpy()
        data = convert(kind, (directory / source.path).read_bytes(), calibration)
        file = File(file_name(kind), source.format, kind, source.outputs)
        (directory / file.path).write_bytes(data)
        variant = open_model(directory, file)
        fidelity = compare_variant(kind, run, variant, images)
        measured = _accuracy(variant, reference, manifest)
        if measured:
            check_accuracy(kind, expected["class_il"], measured["class_il"])
        parity = {
            name: Difference(size, fidelity.bound.get(name, size), len(images), "samples")
            for name, size in fidelity.size.items()
        }
        measured |= {"agreement": fidelity.agreement, "cosine": fidelity.cosine}
        entries[file.path] = replace(file, parity=parity, accuracy=measured)
    return list(entries.values())


def _accuracy(run: Run, reference: ReferenceData, manifest: Manifest) -> dict[str, float]:
    """Returns Class-IL accuracy and number of test images; empty without a test set."""
    if reference.test_set is None:
        return {}
    images, labels = reference.test_set
    seen = manifest.info.classes_seen or None
    value = accuracy(run, images, labels, manifest.class_ids, seen)
    counted = torch.isin(labels, torch.tensor(seen or manifest.class_ids)).sum().item()
    return {"class_il": value, "images": int(counted)}


def _comparison_images(reference: ReferenceData) -> torch.Tensor:
    """Returns the most realistic images available."""
    if reference.test_set is not None:
        return reference.test_set[0][:MAX_COMPARED]
    if reference.calibration is not None:
        return reference.calibration[:MAX_COMPARED]
    batches = (batch for batch in reference.batches if batch.kind not in ("zeros", "ones"))
    return torch.cat([batch.images for batch in batches])
