"""update_bundle: replaces the weights of a bundle, for example after another task."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mammoth_compiled.backbones import Contract, probe
from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.bundle.directory import check_target, recover, replace_atomically
from mammoth_compiled.export.bundle.finalize import finalize_bundle
from mammoth_compiled.export.bundle.hashes import check_file
from mammoth_compiled.export.bundle.manifest import File, Manifest
from mammoth_compiled.export.bundle.manifest_reader import read_manifest
from mammoth_compiled.export.bundle.metadata import metadata_of
from mammoth_compiled.export.bundle.same_weights import check_same_weights, unknown_form
from mammoth_compiled.export.capture.backbone import eager_copy, unwrap
from mammoth_compiled.export.capture.graph import NamedOutputs
from mammoth_compiled.export.capture.options import Head
from mammoth_compiled.export.checkpoint import load_backbone
from mammoth_compiled.export.export import complete_info, manifest_without_files
from mammoth_compiled.export.formats import FORMATS
from mammoth_compiled.export.parity.measure import measure_parity
from mammoth_compiled.export.parity.reference import (
    Images,
    LabeledImages,
    ReferenceData,
    collect_reference,
)
from mammoth_compiled.export.variants.add import add_variants
from mammoth_compiled.types import DatasetInfo


def update_bundle(
    bundle: str | os.PathLike[str],
    checkpoint_or_net: Any,
    *,
    info: DatasetInfo | None = None,
    samples: torch.Tensor | None = None,
    calibration: Images | None = None,
    test_set: LabeledImages | None = None,
) -> Path:
    """Replaces the weights of a bundle, without tracing or compiling again.

    Every file gets the new weights and is compared with eager mode again. Classes seen, golden
    values, hashes and accuracy are updated, and float16 and int8 variants are rebuilt. The old
    version stays until the new one is complete, and for good if anything fails. A loaded bundle
    switches to the new version with `reload()`.

    Args:
        bundle: The directory of a bundle.
        checkpoint_or_net: A checkpoint file, a backbone, or a model with a backbone `net`, of the
            architecture that was exported.
        info: Description of the training data; None takes it from the checkpoint or the model, or
            keeps the bundle's.
        samples: Real images to compare on as well, normalized float32 [N, C, H, W].
        calibration: Training images, likewise, or a function that returns them; required if the
            bundle has an int8 variant.
        test_set: Test images and class ids, or a function that returns both, to measure accuracy.

    Returns:
        The absolute path of the directory.

    Raises:
        ExportError: If there is no bundle or it is damaged, the weights do not fit it, or a file
            differs from eager mode.
        CheckpointError: If the checkpoint cannot be read.
    """
    directory = Path(bundle)
    recover(directory)
    old = read_manifest(directory)
    with ThreadPoolExecutor() as pool:
        list(pool.map(partial(check_file, directory), old.files))
    check_same_weights(directory, old.files)
    target = check_target(directory)
    found: DatasetInfo | None
    if isinstance(checkpoint_or_net, (str, os.PathLike)):
        _, net, found = load_backbone(os.fspath(checkpoint_or_net))
    else:
        net, found = unwrap(checkpoint_or_net)
    net = eager_copy(net)
    with torch.random.fork_rng(devices=[]), replace_atomically(target) as staging:
        contract = probe(net, old.interface.input_shape)
        data = _new_info(old, info or found, contract)
        graph = NamedOutputs(net, contract, old.options, data)
        manifest = manifest_without_files(old.name, graph, data, old.options)
        _check_same_interface(old, manifest)
        reference = collect_reference(graph, data, samples, calibration, test_set, batch_sizes=())
        files = _write_files(directory, staging, old, manifest, graph, reference)
        # Their other bytes were searched for local paths when they were exported.
        searched = [file.path for file in files if _holds_weights(file)]
        manifest = replace(manifest, files=tuple(files))
        finalize_bundle(staging, manifest, reference.golden, free_of_paths=searched)
    return target


def _write_files(
    directory: Path,
    staging: Path,
    old: Manifest,
    manifest: Manifest,
    graph: NamedOutputs,
    reference: ReferenceData,
) -> list[File]:
    """Writes the new version of all files into `staging` and returns their entries."""
    weights = {name: value.detach() for name, value in graph.state_dict().items()}
    files = [file for file in old.files if file.format in FORMATS]
    updated = [replace(file, accuracy={}) for file in files if _holds_weights(file)]
    for file in updated:
        path = staging / file.path
        shutil.copyfile(directory / file.path, path)
        try:
            FORMATS[file.format].replace_weights(path, weights, metadata_of(manifest))
        except (ExportError, OSError):
            raise
        except Exception as error:  # of many types for files of another form
            raise unknown_form(file.path, error) from error
    updated = measure_parity(staging, updated, reference, _device(old))
    kinds = [file.precision for file in files if not _holds_weights(file)]
    # Other weights take the same time.
    latency = {file.path: file.latency for file in files}
    return [
        replace(file, latency=latency.get(file.path, {}))
        for file in add_variants(staging, updated, kinds, reference, manifest)
    ]


def _holds_weights(file: File) -> bool:
    """Returns whether a file holds the weights unchanged, rather than converted ones."""
    return file.precision in ("", "fp32")


def _new_info(old: Manifest, info: DatasetInfo | None, contract: Contract) -> DatasetInfo:
    """Returns the description of the training data for the new version."""
    if info is not None:
        return complete_info(info, contract)
    if old.options.classes == Head.SEEN:
        raise ExportError(
            "the bundle is reduced to the classes seen in training, and the classes seen now are "
            "unknown: give info=DatasetInfo(...)"
        )
    return old.info


def _device(manifest: Manifest) -> torch.device:
    """Returns the device that the bundle's compiled code runs on."""
    needs = [file.requires["device"] for file in manifest.files if "device" in file.requires]
    return torch.device(needs[0] if needs else "cpu")


def _check_same_interface(old: Manifest, new: Manifest) -> None:
    if new.interface == old.interface and new.class_ids == old.class_ids:
        return
    if new.options.classes == Head.SEEN:
        raise ExportError(
            f"the bundle is reduced to the classes {list(old.class_ids)}, and "
            f"{list(new.class_ids)} were seen by now: export it again, or with classes='masked', "
            "which can be updated",
            "contract",
        )
    raise ExportError(
        f"the backbone gives {dict(new.interface.outputs)}, and the bundle has "
        f"{dict(old.interface.outputs)}: export it again",
        "contract",
    )
