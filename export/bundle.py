"""export_bundle: from a backbone to a directory of proven files."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mammoth_compiled.backbones import Contract, probe
from mammoth_compiled.errors import ExportError
from mammoth_compiled.export import to_onnx
from mammoth_compiled.export.directory import check_target, replacing
from mammoth_compiled.export.graph import INPUT, NamedOutputs, eager_copy, unwrap
from mammoth_compiled.export.load import load_bundle
from mammoth_compiled.export.metadata import Metadata
from mammoth_compiled.export.session import import_onnxruntime, open_session, run_session
from mammoth_compiled.export.verify import compare
from mammoth_compiled.types import DatasetInfo


def export_bundle(
    model_or_backbone: Any,
    path: str | os.PathLike[str],
    *,
    input_shape: Sequence[int] | None = None,
    info: DatasetInfo | None = None,
    samples: torch.Tensor | None = None,
) -> Path:
    """Exports a backbone to a directory, after proving that the export equals eager.

    The directory holds `model.onnx`: opset 20, one file, input `input` float32 [batch, C, H, W]
    with any batch size, outputs `out` [batch, K] and, where the backbone has them, `features`
    [batch, F]; classes, mean, std and input size are in its metadata. Every output is compared
    with the eager, un-compiled backbone in eval mode, at batch sizes 1, 2, 7 and 32. A bundle that
    was at `path` is replaced in the end; if anything fails, nothing is written.

    A copy on the CPU is exported: the backbone keeps its device, mode, gradients and the random
    state.

    Args:
        model_or_backbone: A `MammothBackbone`, or a model with a backbone `net` and a `dataset`
            whose `info()` describes the data. Either may be compiled. Parameters are float32.
        path: The directory to write: new, empty or a bundle.
        input_shape: (C, H, W) of one image; needed where neither `info` nor the model tells it.
        info: What to write of the training data; None asks the model's dataset.
        samples: Real images to compare on as well, normalised float32 [N, C, H, W].

    Returns:
        The absolute path of the directory.

    Raises:
        ExportError: If the export differs from eager (names output, batch size and difference),
            the backbone cannot be expressed in ONNX, the arguments contradict each other, `path`
            holds other files, or ONNX Runtime is not installed.
        ContractError: If the backbone does not keep the ReturnTypes contract.

    Example:
        >>> export_bundle(model, "exported/resnet18")
        >>> logits, features = load_bundle("exported/resnet18")(images, returnt="both")
    """
    target = check_target(path)
    import_onnxruntime()  # fail before the work rather than after it
    net, dataset_info = unwrap(model_or_backbone)
    info = info or dataset_info
    shape = _input_shape(input_shape, info)
    if samples is not None:
        samples = _check_samples(samples, shape)
    net = eager_copy(net)
    # A forward may draw random numbers; the caller's come from the same generator.
    with torch.random.fork_rng(devices=[]):
        contract = probe(net, shape, (info.num_classes or None) if info else None)
        info = _complete(info, contract)
        graph = NamedOutputs(net, contract)
        data = to_onnx.write(graph)
        session = open_session(data)
        parity = compare(
            lambda images: run_session(session, {INPUT: images.numpy()}),
            graph.ask,
            list(graph.widths),
            shape,
            samples,
        )
    metadata = Metadata(info, graph.widths, parity)
    with replacing(target) as folder:
        file = folder / to_onnx.FILE_NAME
        file.write_bytes(to_onnx.with_metadata(data, metadata.to_properties()))
        load_bundle(file)  # what is on the disk opens, with its metadata
    return target


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


def _check_samples(samples: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    if not isinstance(samples, torch.Tensor):
        raise ExportError(f"samples must be a torch tensor, not {type(samples).__name__}")
    if samples.dtype != torch.float32 or samples.shape[1:] != shape or len(samples) == 0:
        raise ExportError(
            f"samples must be normalised images, float32 [N, {', '.join(map(str, shape))}], but "
            f"are {samples.dtype} {list(samples.shape)}"
        )
    return samples.detach().cpu().contiguous()


def _complete(info: DatasetInfo | None, contract: Contract) -> DatasetInfo:
    """Returns `info` with the width of the head, after checking the lengths of its lists."""
    if info is None:
        return DatasetInfo("", contract.input_shape, num_classes=contract.num_classes)
    lengths = {
        "class_names": (info.class_names, contract.num_classes),
        "mean": (info.mean, contract.input_shape[0]),
        "std": (info.std, contract.input_shape[0]),
    }
    for name, (values, length) in lengths.items():
        if values and len(values) != length:
            raise ExportError(f"info.{name} must have {length} entries, not {len(values)}")
    return replace(
        info,
        num_classes=contract.num_classes,
        mean=tuple(float(value) for value in info.mean),
        std=tuple(float(value) for value in info.std),
    )
