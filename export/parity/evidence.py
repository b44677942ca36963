"""Opens every file that was written and holds it against eager."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.variants import convert as variants
from mammoth_compiled.export.formats import RUNTIMES
from mammoth_compiled.export.capture.graph import NamedOutputs
from mammoth_compiled.export.capture.interface import Interface
from mammoth_compiled.export.bundle.manifest import File, Manifest
from mammoth_compiled.export.capture.options import SCALE
from mammoth_compiled.export.parity.compare import (
    BATCH_SIZES,
    Case,
    Difference,
    Run,
    check_repeats,
    compare,
    make_case,
    make_cases,
    random_images,
)
from mammoth_compiled.types import DatasetInfo

GOLDEN_SIZE = 4
# Enough to judge a variant by.
MAX_COMPARED = 512

Lazy = Callable[[], Any]


@dataclass(frozen=True)
class Evidence:
    """What files are held against.

    Attributes:
        cases: Images and what eager gives for them; the last are the golden ones.
        calibration: Training images as the graph takes them [N, ...], or nothing.
        test_set: Test images, likewise, and their class ids int64 [N], or nothing.
    """

    cases: Sequence[Case]
    calibration: torch.Tensor | None = None
    test_set: tuple[torch.Tensor, torch.Tensor] | None = None


def gather(
    graph: NamedOutputs,
    info: DatasetInfo,
    samples: torch.Tensor | None = None,
    calibration: torch.Tensor | Lazy | None = None,
    test_set: tuple[torch.Tensor, torch.Tensor] | Lazy | None = None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> Evidence:
    """Runs eager on what files are to be held against.

    Args:
        graph: The truth.
        info: The training data.
        samples: Real images, normalised float32 [N, C, H, W]; so are those below.
        calibration: Training images, or what returns them.
        test_set: Test images and class ids, or what returns them.
        batch_sizes: Sizes of the batches besides the golden ones; none where the graph was proven
            before and only its weights are new.

    Raises:
        ExportError: If images have another form, or eager does not repeat itself.
    """
    interface = graph.interface

    def prepare(images: Any, name: str) -> torch.Tensor:
        return _as_input(_check_images(images, interface.input_shape, name), interface, info)

    if samples is not None:
        samples = prepare(samples, "samples")
    calibration = calibration() if callable(calibration) else calibration
    if calibration is not None:
        calibration = prepare(calibration, "calibration")
    test_set = test_set() if callable(test_set) else test_set
    if test_set is not None:
        images, labels = test_set
        test_set = prepare(images, "test_set images"), torch.as_tensor(labels).cpu()
    cases = make_cases(graph.ask, interface, samples, batch_sizes)
    if samples is None:
        golden = random_images(interface, GOLDEN_SIZE)
    else:
        golden = samples[torch.arange(GOLDEN_SIZE) % len(samples)]
    # One alone too: whoever updates has no other batches.
    cases += [make_case(graph.ask, interface, "golden", batch) for batch in (golden[:1], golden)]
    check_repeats(graph.ask, cases[0])
    return Evidence(cases, calibration, test_set)


def prove(
    folder: Path, files: Sequence[File], evidence: Evidence, device: torch.device
) -> list[File]:
    """Compares all that the model files among some files compute with eager.

    Args:
        folder: Where the files are.
        files: Their entries.
        evidence: What to compare with.
        device: Where files for a device run; portable ones run on the CPU.

    Returns:
        The entries, with what was measured.

    Raises:
        ExportError: If an output differs; names file, output, batch and difference.
    """
    return [
        replace(file, parity=_differences(folder, file, evidence, device))
        if file.is_model and file.precision == "fp32"
        else file
        for file in files
    ]


def _differences(
    folder: Path, file: File, evidence: Evidence, device: torch.device
) -> dict[str, Difference]:
    worst: dict[str, Difference] = {}
    for outputs in RUNTIMES[file.format].selections(file):
        run = open_run(folder, file, outputs, device)
        for name, found in compare(run, evidence.cases, outputs, file.path).items():
            best = worst.get(name)
            if best is None or found.size * best.bound > best.size * found.bound:
                worst[name] = found
    return {name: worst[name] for name in file.outputs}


def open_run(
    folder: Path,
    file: File,
    outputs: Sequence[str] | None = None,
    device: torch.device = torch.device("cpu"),  # noqa: B008 (immutable)
) -> Run:
    """Opens a model file; one for a device on that, others on the CPU.

    Args:
        folder: Where it is.
        file: Its entry.
        outputs: One of its selections; None takes the first, in which `out` is if anywhere.
        device: Where code that was compiled for a device runs.
    """
    place = device if file.requires.get("device") == device.type else torch.device("cpu")
    runtime = RUNTIMES[file.format]
    wanted = runtime.selections(file)[0] if outputs is None else outputs
    return runtime.open_file(folder / file.path, file, wanted, place)


def add_variants(
    folder: Path,
    files: Sequence[File],
    kinds: Sequence[str],
    evidence: Evidence,
    manifest: Manifest,
) -> list[File]:
    """Writes variants of `model.onnx` and measures accuracy, of them and of what they come from.

    Args:
        folder: Where the files are.
        files: The entries of what was written and proven.
        kinds: `fp16`, `int8`.
        evidence: Images to calibrate on, to compare on and to measure accuracy with.
        manifest: Which class each column stands for.

    Returns:
        All entries.

    Raises:
        ExportError: If there is no `model.onnx`, images are missing, or a variant is too far from
            float32.
    """
    models = [file for file in files if file.is_model]
    if not models or not (kinds or evidence.test_set):
        return list(files)
    best = next((file for file in models if file.path == "model.onnx"), models[0])
    run = open_run(folder, best)
    entries = {file.path: file for file in files}
    reference = _accuracy(run, evidence, manifest)
    entries[best.path] = replace(best, accuracy=reference)
    images = _real_images(evidence)
    for kind in kinds:
        if best.path != "model.onnx":
            raise ExportError(f"variant {kind!r} is made from ONNX: add onnx to the formats")
        calibration = None if evidence.calibration is None else evidence.calibration.numpy()
        data = variants.write_variant(kind, (folder / best.path).read_bytes(), calibration)
        file = File(variants.file_name(kind), "onnx", kind, best.outputs)
        (folder / file.path).write_bytes(data)
        variant = open_run(folder, file)
        fidelity = variants.compare_variant(kind, run, variant, images)
        found = _accuracy(variant, evidence, manifest)
        if found:
            variants.check_accuracy(kind, reference["class_il"], found["class_il"])
        parity = {
            name: Difference(size, fidelity.bound.get(name, size), len(images), "samples")
            for name, size in fidelity.size.items()
        }
        agreement = {"agreement": fidelity.agreement, "cosine": fidelity.cosine}
        entries[file.path] = replace(file, parity=parity, accuracy=found | agreement)
    return list(entries.values())


def _accuracy(run: Run, evidence: Evidence, manifest: Manifest) -> dict[str, float]:
    if evidence.test_set is None:
        return {}
    images, labels = evidence.test_set
    seen = manifest.info.classes_seen or None
    value = variants.accuracy(run, images, labels, manifest.class_ids, seen)
    counted = torch.isin(labels, torch.tensor(seen or manifest.class_ids)).sum().item()
    return {"class_il": value, "images": int(counted)}


def _real_images(evidence: Evidence) -> torch.Tensor:
    """Returns the most real images there are to compare a variant on."""
    if evidence.test_set is not None:
        return evidence.test_set[0][:MAX_COMPARED]
    if evidence.calibration is not None:
        return evidence.calibration[:MAX_COMPARED]
    return torch.cat(
        [case.images for case in evidence.cases if case.inputs not in ("zeros", "ones")]
    )


def _check_images(images: Any, shape: tuple[int, int, int], name: str) -> torch.Tensor:
    if not isinstance(images, torch.Tensor):
        raise ExportError(f"{name} must be a torch tensor, not {type(images).__name__}")
    if images.dtype != torch.float32 or images.shape[1:] != shape or len(images) == 0:
        raise ExportError(
            f"{name} must be normalised images, float32 [N, {', '.join(map(str, shape))}], but "
            f"are {images.dtype} {list(images.shape)}"
        )
    return images.detach().cpu().contiguous()


def _as_input(images: torch.Tensor, interface: Interface, info: DatasetInfo) -> torch.Tensor:
    """Returns normalised images as the graph takes them, pixels where it normalises by itself."""
    if not interface.pixels:
        return images
    shape = (-1, 1, 1)
    values = images * torch.tensor(info.std).view(shape) + torch.tensor(info.mean).view(shape)
    pixels = (values / SCALE).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous()
