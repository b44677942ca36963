"""export_bundle: from a backbone to a directory of proven files."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mammoth_compiled.backbones import Contract, probe
from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.capture.program import Source
from mammoth_compiled.export.bundle.finalize import seal
from mammoth_compiled.export.bundle.directory import check_target, replacing
from mammoth_compiled.export.formats import FORMATS, format_names
from mammoth_compiled.export.capture.graph import NamedOutputs, eager_copy, name_of, unwrap
from mammoth_compiled.export.bundle.manifest import Manifest
from mammoth_compiled.export.bundle.metadata import properties
from mammoth_compiled.export.parity.evidence import add_variants, gather, prove
from mammoth_compiled.export.onnx_runtime import import_onnxruntime
from mammoth_compiled.export.capture.options import Head, Options
from mammoth_compiled.types import DatasetInfo

Images = torch.Tensor | Callable[[], torch.Tensor]
Labelled = tuple[torch.Tensor, torch.Tensor] | Callable[[], tuple[torch.Tensor, torch.Tensor]]


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
    variants: Sequence[str] = (),
    calibration: Images | None = None,
    test_set: Labelled | None = None,
    name: str | None = None,
) -> Path:
    """Exports a backbone to a directory, after proving that every file in it equals eager.

    The input is `input`, float32 [batch, C, H, W] with any batch size; the outputs are `out`
    [batch, K] and, where the backbone has them, `features` [batch, F]. Every output of every file
    is compared with the eager, un-compiled backbone in eval mode, at batch sizes 1, 2, 7 and 32. A
    bundle that was at `path` is replaced in the end; if anything fails, nothing is written.
    `manifest.json` says what the directory holds.

    A copy on the CPU is exported: the backbone keeps its device, mode, gradients and the random
    state.

    Args:
        model_or_backbone: A `MammothBackbone`, or a model with a backbone `net` and a `dataset`
            whose `info()` describes the data. Either may be compiled. Parameters are float32.
        path: The directory to write: new, empty or a bundle.
        input_shape: (C, H, W) of one image; needed where neither `info` nor the model tells it.
        info: What to write of the training data; None asks the model's dataset.
        samples: Real images to compare on as well, normalised float32 [N, C, H, W].
        formats: Names from `onnx`, `pt2` (torch.export), `aoti` (AOTInductor: compiled code with
            entries out, features and both), `torchscript` and `safetensors` (weights alone), or a
            text of them with commas; by default `onnx,pt2,safetensors`.
        device: What `aoti` compiles for, `cpu` or `cuda`.
        fold_preprocessing: Take stored pixels, uint8 [batch, H, W, C], and normalise them inside.
        classes: `all`; `seen`: trim `out` to the classes trained on; `masked`: give the columns of
            the others the lowest float32.
        softmax: Give probabilities in `out`.
        full: Also give the stage maps of a backbone with FULL as `full_0`, `full_1`, ...
        variants: `fp16`, `int8`: smaller ONNX models beside the float32 one.
        calibration: Training images to set the ranges of int8, normalised float32 [N, C, H, W], or
            what returns them.
        test_set: Test images, likewise, and class ids int64 [N], or what returns both; accuracy is
            measured on them and written to the manifest.
        name: Name of the backbone in the manifest; by default that of the run or of its class.

    Returns:
        The absolute path of the directory.

    Raises:
        ExportError: If the export differs from eager (names file, output, batch size and
            difference), the backbone cannot be expressed in a format, the arguments contradict
            each other, `path` holds other files, or a library is not installed.
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
    wanted = format_names(formats)
    options = Options(fold_preprocessing, _head(classes), softmax, full)
    if "onnx" in wanted:
        import_onnxruntime()  # fail before the work rather than after it
    net, dataset_info = unwrap(model_or_backbone)
    info = info or dataset_info
    shape = _input_shape(input_shape, info)
    name = name or name_of(model_or_backbone)
    place = torch.device(device)
    net = eager_copy(net)
    # A forward may draw random numbers; the caller's come from the same generator.
    with torch.random.fork_rng(devices=[]), replacing(target) as folder:
        contract = probe(net, shape, (info.num_classes or None) if info else None)
        info = complete(info, contract)
        graph = NamedOutputs(net, contract, options, info)
        manifest = describe_graph(name, graph, info, options)
        evidence = gather(graph, info, samples, calibration, test_set)
        source = Source(graph, properties(manifest), place)
        files = [file for key in wanted for file in FORMATS[key].write(source, folder)]
        files = prove(folder, files, evidence, place)
        files = add_variants(folder, files, variants, evidence, manifest)
        seal(folder, replace(manifest, files=tuple(files)), evidence.cases[-1])
    return target


def describe_graph(name: str, graph: NamedOutputs, info: DatasetInfo, options: Options) -> Manifest:
    """Returns the manifest of a graph, without files."""
    ids: Sequence[int] = range(info.num_classes)
    if options.classes == Head.SEEN:
        ids = info.classes_seen
    names = tuple(info.class_names[k] for k in ids) if info.class_names else ()
    columns = replace(info, num_classes=len(ids), class_names=names)
    return Manifest(name, graph.interface, columns, tuple(ids), options)


def complete(info: DatasetInfo | None, contract: Contract) -> DatasetInfo:
    """Returns `info` with the width of the head, after checking the lengths of its lists.

    Raises:
        ExportError: If a list has another length than the backbone has classes or channels.
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
            "the size of the images is not known: give input_shape=(C, H, W), as in "
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
