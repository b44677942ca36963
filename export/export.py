"""export_bundle: writes a backbone to a directory of verified files."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mammoth_compiled.backbones import Contract, probe
from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.bundle.directory import check_target, replace_atomically
from mammoth_compiled.export.bundle.finalize import finalize_bundle
from mammoth_compiled.export.bundle.manifest import Manifest
from mammoth_compiled.export.bundle.metadata import metadata_of
from mammoth_compiled.export.capture.backbone import eager_copy, name_of, unwrap
from mammoth_compiled.export.capture.graph import NamedOutputs
from mammoth_compiled.export.capture.options import Head, Options
from mammoth_compiled.export.capture.program import Source
from mammoth_compiled.export.formats import FORMATS, check_operators, format_names
from mammoth_compiled.export.parity.latency import measure_latency
from mammoth_compiled.export.parity.measure import measure_parity
from mammoth_compiled.export.parity.reference import Images, LabeledImages, collect_reference
from mammoth_compiled.export.variants.add import add_variants
from mammoth_compiled.export.variants.convert import variant_names
from mammoth_compiled.types import DatasetInfo


def export_bundle(
    model_or_backbone: Any,
    path: str | os.PathLike[str],
    *,
    input_shape: Sequence[int] | None = None,
    info: DatasetInfo | None = None,
    samples: torch.Tensor | None = None,
    formats: str | Sequence[str] | None = None,
    device: str | torch.device = "cpu",
    fold_preprocessing: bool = False,
    classes: str = "all",
    softmax: bool = False,
    full: bool = False,
    variants: str | Sequence[str] = (),
    calibration: Images | None = None,
    test_set: LabeledImages | None = None,
    name: str | None = None,
) -> Path:
    """Exports a backbone to a directory, after verifying every file in it against eager mode.

    The input is `input`, float32 [batch, C, H, W] with a dynamic batch size. The outputs are `out`
    [batch, K] and, if the backbone has them, `features` [batch, F]. Every output of every file is
    compared with the uncompiled backbone in eval mode, at batch sizes 1, 2, 7 and 32. A bundle that
    exists at `path` is replaced only after that; if anything fails, nothing is written.
    `manifest.json` describes the content of the directory.

    A copy on the CPU is exported: the device, mode and gradients of the backbone and the state of
    the random number generators stay unchanged.

    Args:
        model_or_backbone: A `MammothBackbone`, or a model with a backbone `net` and a `dataset`
            whose `info()` describes the data. Either may be compiled. Parameters are float32.
        path: The directory to write: new, empty or a bundle.
        input_shape: (C, H, W) of one image; required if neither `info` nor the model knows it.
        info: Description of the training data; None takes it from the model's dataset.
        samples: Real images to compare on as well, normalized float32 [N, C, H, W].
        formats: Names from `onnx`, `pt2` (torch.export), `aoti` (AOTInductor: compiled code with
            entries out, features and both), `torchscript` and `safetensors` (weights only), or a
            comma-separated string of them; default: `onnx,pt2,safetensors`.
        device: The device that `aoti` compiles for, `cpu` or `cuda`.
        fold_preprocessing: Take stored pixels, uint8 [batch, H, W, C], and normalize them in the
            graph.
        classes: `all`; `seen`: reduce `out` to the classes seen in training; `masked`: set the
            columns of unseen classes to the lowest float32.
        softmax: Output probabilities in `out`.
        full: Also output the stage maps of a backbone with FULL, as `full_0`, `full_1`, ...
        variants: `fp16`, `int8`: smaller ONNX models beside the float32 one; a sequence or a
            comma-separated string.
        calibration: Training images that set the activation ranges of int8, normalized float32
            [N, C, H, W], or a function that returns them.
        test_set: Test images, likewise, and class ids int64 [N], or a function that returns both.
            The accuracy on them is recorded in the manifest.
        name: Name of the backbone in the manifest; default: its registered name or its class.

    Returns:
        The absolute path of the directory.

    Raises:
        ExportError: If the export differs from eager mode (names file, output, batch size and
            difference), a format cannot express the backbone, the arguments contradict each other,
            `path` holds other files, or a library is not installed.
        ContractError: If the backbone does not keep the ReturnTypes contract.

    Example:
        >>> from mammoth_compiled import export_bundle, load_bundle
        >>> from mammoth_compiled.backbones.cnn import CNN
        >>> path = export_bundle(CNN(10), "exported/cnn", input_shape=(3, 32, 32), formats="onnx")
        >>> logits, features = load_bundle(path)(torch.rand(4, 3, 32, 32), returnt="both")
        >>> logits.shape, features.shape
        (torch.Size([4, 10]), torch.Size([4, 4096]))
    """
    target = check_target(path)
    writers = [FORMATS[key] for key in format_names(formats)]
    kinds = variant_names(variants)
    options = Options(fold_preprocessing, _head(classes), softmax, full)
    for writer in writers:
        writer.check_installed()
    net, dataset_info = unwrap(model_or_backbone)
    info = info or dataset_info
    shape = _input_shape(input_shape, info)
    name = name or name_of(model_or_backbone)
    device = torch.device(device)
    net = eager_copy(net)
    # The caller's random state is kept, in case the backbone draws random numbers.
    with torch.random.fork_rng(devices=[]), replace_atomically(target) as directory:
        contract = probe(net, shape, (info.num_classes or None) if info else None)
        info = complete_info(info, contract)
        graph = NamedOutputs(net, contract, options, info)
        manifest = manifest_without_files(name, graph, info, options)
        reference = collect_reference(graph, info, samples, calibration, test_set)
        source = Source(graph, metadata_of(manifest), device)
        if any(writer.torch_operators_only for writer in writers):
            check_operators(source.program(), net)
        files = [file for writer in writers for file in writer.write(source, directory)]
        files = measure_parity(directory, files, reference, device)
        files = add_variants(directory, files, kinds, reference, manifest)
        files = measure_latency(directory, files, graph.interface, device)
        finalize_bundle(directory, replace(manifest, files=tuple(files)), reference.golden)
    return target


def manifest_without_files(
    name: str, graph: NamedOutputs, info: DatasetInfo, options: Options
) -> Manifest:
    """Returns the manifest of a graph before any file is written."""
    ids: Sequence[int] = range(info.num_classes)
    if options.classes == Head.SEEN:
        ids = info.classes_seen
    names = tuple(info.class_names[k] for k in ids) if info.class_names else ()
    columns = replace(info, num_classes=len(ids), class_names=names)
    return Manifest(name, graph.interface, columns, tuple(ids), options)


def complete_info(info: DatasetInfo | None, contract: Contract) -> DatasetInfo:
    """Returns `info` with the number of classes and default normalization filled in.

    Raises:
        ExportError: If the length of a list does not match the backbone's classes or channels.
    """
    if info is None:
        return DatasetInfo("", contract.input_shape, num_classes=contract.num_classes)
    channels = contract.input_shape[0]
    lengths = {
        "class_names": (info.class_names, contract.num_classes),
        "mean": (info.mean, channels),
        "std": (info.std, channels),
    }
    for name, (values, length) in lengths.items():
        if values and len(values) != length:
            raise ExportError(f"info.{name} must have {length} entries, not {len(values)}")
    return replace(
        info,
        num_classes=contract.num_classes,
        mean=tuple(float(value) for value in info.mean or (0.0,) * channels),
        std=tuple(float(value) for value in info.std or (1.0,) * channels),
    )


def _head(classes: str) -> Head:
    if classes not in tuple(Head):
        raise ExportError(
            f"unknown classes={classes!r}; valid: {', '.join(map(repr, map(str, Head)))}"
        )
    return Head(classes)


def _input_shape(
    input_shape: Sequence[int] | None, info: DatasetInfo | None
) -> tuple[int, int, int]:
    given = info.input_shape if input_shape is None and info is not None else input_shape
    if given is None:
        raise ExportError(
            "the size of the images is unknown: give input_shape=(C, H, W), as in "
            "export_bundle(net, path, input_shape=(3, 32, 32)), or info=DatasetInfo(...)"
        )
    if (
        not isinstance(given, Sequence)
        or len(given) != 3
        or not all(isinstance(size, int) and size > 0 for size in given)
    ):
        raise ExportError(f"input_shape must be three positive numbers (C, H, W), not {given!r}")
    channels, height, width = given
    if info is not None and (channels, height, width) != tuple(info.input_shape):
        raise ExportError(
            f"input_shape {tuple(given)} is not the {tuple(info.input_shape)} of dataset "
            f"{info.name!r}. Leave input_shape out"
        )
    return channels, height, width
