"""update_bundle: the weights after another task, put into an existing bundle."""

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
from mammoth_compiled.export.export import Images, Labelled, complete, describe_graph
from mammoth_compiled.export.capture.program import first_line
from mammoth_compiled.export.bundle.finalize import seal
from mammoth_compiled.export.bundle.directory import check_target, replacing
from mammoth_compiled.export.formats import FORMATS
from mammoth_compiled.export.capture.graph import NamedOutputs, eager_copy, unwrap
from mammoth_compiled.export.bundle.manifest import File, Manifest, check_file, read_manifest
from mammoth_compiled.export.bundle.metadata import properties
from mammoth_compiled.export.parity.evidence import Evidence, add_variants, gather, prove
from mammoth_compiled.export.checkpoint import restore
from mammoth_compiled.export.capture.options import Head
from mammoth_compiled.types import DatasetInfo


def update_bundle(
    bundle: str | os.PathLike[str],
    checkpoint_or_net: Any,
    *,
    info: DatasetInfo | None = None,
    samples: torch.Tensor | None = None,
    calibration: Images | None = None,
    test_set: Labelled | None = None,
) -> Path:
    """Puts the weights after another task into a bundle, without tracing or compiling again.

    Every file gets the new weights and is compared with eager again; classes seen, golden values,
    hashes and accuracy are written anew, float16 and int8 variants are made again. The old version
    stays until the new one is in place; if anything fails, it stays for good. A loaded bundle
    picks the new version up with `reload()`.

    Args:
        bundle: The directory of a bundle.
        checkpoint_or_net: A checkpoint file, a backbone, or a model with a backbone `net`, of the
            same architecture as the one exported.
        info: What to write of the training data; None takes that of the checkpoint or the model,
            else leaves it as it is.
        samples: Real images to compare on as well, normalised float32 [N, C, H, W].
        calibration: Training images, likewise, or what returns them; needed by an int8 variant.
        test_set: Test images and class ids, or what returns both, to measure accuracy.

    Returns:
        The absolute path of the directory.

    Raises:
        ExportError: If there is no bundle or it is damaged, the weights do not fit it, or a file
            differs from eager.
        CheckpointError: If the checkpoint cannot be read.
    """
    folder = Path(bundle)
    old = read_manifest(folder)
    with ThreadPoolExecutor() as pool:
        list(pool.map(partial(check_file, folder), old.files))
    target = check_target(folder)
    found: DatasetInfo | None
    if isinstance(checkpoint_or_net, (str, os.PathLike)):
        _, net, found = restore(os.fspath(checkpoint_or_net))
    else:
        net, found = unwrap(checkpoint_or_net)
    net = eager_copy(net)
    with torch.random.fork_rng(devices=[]), replacing(target) as new:
        contract = probe(net, old.interface.input_shape)
        data = _data(old, info or found, contract)
        graph = NamedOutputs(net, contract, old.options, data)
        manifest = describe_graph(old.name, graph, data, old.options)
        _check_same(old, manifest)
        evidence = gather(graph, data, samples, calibration, test_set, batch_sizes=())
        manifest = _write(folder, new, old, manifest, graph, evidence)
        exact = [file.path for file in manifest.files if _is_exact(file)]
        seal(new, manifest, evidence.cases[-1], searched=exact)
    return target


def _write(
    folder: Path,
    new: Path,
    old: Manifest,
    manifest: Manifest,
    graph: NamedOutputs,
    evidence: Evidence,
) -> Manifest:
    """Writes the files of the new version and returns its manifest."""
    weights = {name: value.detach() for name, value in graph.state_dict().items()}
    files = [file for file in old.files if file.format in FORMATS]
    exact = [replace(file, accuracy={}) for file in files if _is_exact(file)]
    for file in exact:
        shutil.copyfile(folder / file.path, new / file.path)
        try:
            FORMATS[file.format].replace_weights(new / file.path, weights, properties(manifest))
        except (ExportError, OSError):
            raise
        except Exception as error:  # of many kinds, for what has another form
            raise ExportError(
                f"{file.path} has a form that its weights cannot be found in "
                f"({type(error).__name__}: {first_line(error)}): export it again",
                "damaged",
            ) from error
    proven = prove(new, exact, evidence, _device(old))
    kinds = [file.precision for file in files if not _is_exact(file)]
    return replace(manifest, files=tuple(add_variants(new, proven, kinds, evidence, manifest)))


def _is_exact(file: File) -> bool:
    """Whether a file holds the weights themselves, and not what was made of them."""
    return file.precision in ("", "fp32")


def _data(old: Manifest, info: DatasetInfo | None, contract: Contract) -> DatasetInfo:
    """Returns what the new version says of the training data."""
    if info is not None:
        return complete(info, contract)
    if old.options.classes == Head.SEEN:
        raise ExportError(
            "the bundle is trimmed to the classes seen, and which those are now is not known: give "
            "info=DatasetInfo(...)"
        )
    return old.info


def _device(manifest: Manifest) -> torch.device:
    """Returns the device that the bundle's compiled code is for."""
    needs = [file.requires["device"] for file in manifest.files if "device" in file.requires]
    return torch.device(needs[0] if needs else "cpu")


def _check_same(old: Manifest, new: Manifest) -> None:
    if new.interface == old.interface and new.class_ids == old.class_ids:
        return
    if new.options.classes == Head.SEEN:
        raise ExportError(
            f"the bundle is trimmed to the classes {list(old.class_ids)}, and now "
            f"{list(new.class_ids)} were seen: export it again, or with classes='masked', which "
            "can be updated",
            "contract",
        )
    raise ExportError(
        f"the backbone gives {dict(new.interface.outputs)}, and the bundle has "
        f"{dict(old.interface.outputs)}: export it again",
        "contract",
    )
