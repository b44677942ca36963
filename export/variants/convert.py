"""Smaller ONNX models made from the proven float32 one: float16, and 8-bit integers.

A variant is not equal to eager, so it is judged by what it is for: float16 by the difference of
every output, int8 by whether it says the same of real images, and both by their accuracy.
"""

import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.capture.program import quiet
from mammoth_compiled.export.onnx_runtime import import_onnxruntime

if TYPE_CHECKING:
    import onnx

VARIANTS = ("fp16", "int8")

# Fewer images than this leave the ranges of activations to chance; more than the last hardly move
# them and cost time.
MIN_CALIBRATION, MAX_CALIBRATION = 32, 512
_BATCH = 32

# float16 has 11 bits, so a single value is off by 5e-4 of itself; this leaves room for deep sums.
FP16_ABSOLUTE, FP16_RELATIVE = 1e-3, 2e-2
MIN_AGREEMENT, MIN_COSINE = 0.95, 0.99
MAX_ACCURACY_DROP = 0.01

# What computes, and what hands integers on between them. Softmax, sigmoid and normalisation stay
# in float: their ranges do not fit 256 steps.
_COMPUTES = ("Conv", "Gemm", "MatMul")
_QUANTISED = (
    *_COMPUTES,
    *("Add", "AveragePool", "Clip", "Concat", "Flatten", "GlobalAveragePool", "MaxPool", "Relu"),
    *("Reshape", "Squeeze", "Transpose", "Unsqueeze"),
)

Run = Callable[[torch.Tensor], Mapping[str, torch.Tensor]]


@dataclass(frozen=True)
class Fidelity:
    """How near a variant is to float32 on real images.

    Attributes:
        images: How many were compared.
        agreement: Share of them that both give the same class, in [0, 1].
        cosine: Smallest cosine between a feature vector and its float32 one; 1 without features.
        size: Output name to max |variant - float32|, in the units of the output.
        bound: Output name to what that may be; empty for int8.
    """

    images: int
    agreement: float
    cosine: float
    size: dict[str, float]
    bound: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields, for JSON."""
        return asdict(self)


def file_name(kind: str) -> str:
    """Returns the name that a variant has in a bundle.

    Raises:
        ExportError: If there is no such variant; lists the valid ones.
    """
    return f"model.{_known(kind)}.onnx"


def write_variant(kind: str, model: bytes, calibration: np.ndarray | None = None) -> bytes:
    """Returns a smaller variant of an ONNX model.

    Names, shapes and types of inputs and outputs and the metadata stay as they are, and so does
    the model's portability: standard operators only.

    `fp16` computes and stores in float16. `int8` computes convolutions and matrix products in
    integers: weights int8 per output channel, activations uint8 with ranges measured on
    `calibration`, written as QuantizeLinear and DequantizeLinear pairs. Weights take 7 of their 8
    bits, so that x86 processors without VNNI, which add pairs of products in 16 bits, compute the
    same as all others.

    Args:
        kind: `fp16` or `int8`.
        model: The serialised float32 model.
        calibration: For `int8`, 32 or more images of the training data or the replay buffer as the
            model takes them [N, ...]; of more than 512, 512 evenly spaced ones are used.

    Raises:
        ExportError: If `kind` is unknown, the images are missing, too few or not the model's, or
            nothing in the model can be quantised.
    """
    import onnx

    _known(kind)
    source = onnx.load_from_string(model)
    if kind == "fp16":
        variant = _to_fp16(onnx.load_from_string(model))
    else:
        variant = _to_int8(source, _check_calibration(source, calibration))
    _restore(variant, source)
    data: bytes = variant.SerializeToString()
    return data


def compare_variant(kind: str, reference: Run, variant: Run, images: torch.Tensor) -> Fidelity:
    """Compares a variant with float32 on real images and refuses one that is too far from it.

    Args:
        kind: `fp16`, whose outputs may differ by 1e-3 + 2e-2 * max |float32|, or `int8`, which must
            give 95 % of the images the same class and keep the direction of every feature vector
            (cosine 0.99 or more).
        reference: Runs the float32 model: images [B, ...] to outputs by name.
        variant: Runs the variant, likewise.
        images: Real images as the model takes them [N, ...].

    Raises:
        ExportError: If the variant misses that; says by how much.
    """
    _known(kind)
    wanted, got = _run(reference, images), _run(variant, images)
    size = {name: (got[name] - wanted[name]).abs().max().item() for name in wanted}
    bound = {}
    if kind == "fp16":
        bound = {name: _fp16_bound(values) for name, values in wanted.items()}
    agreement = (got["out"].argmax(1) == wanted["out"].argmax(1)).double().mean().item()
    cosine = 1.0
    if "features" in wanted:
        pair = (got["features"].double(), wanted["features"].double())
        cosine = torch.cosine_similarity(*pair).min().item()
    for name, limit in bound.items():
        if not size[name] <= limit:
            raise ExportError(
                f"the fp16 variant differs from float32: output {name!r} by {size[name]:.3g}, and "
                f"the bound is {limit:.3g}. Values beyond 65504 do not fit float16: export without "
                "this variant"
            )
    if kind == "int8" and not (agreement >= MIN_AGREEMENT and cosine >= MIN_COSINE):
        raise ExportError(
            f"the int8 variant differs from float32: it gives {agreement:.1%} of {len(images)} "
            f"images the same class (at least {MIN_AGREEMENT:.0%}), and the cosine of a feature "
            f"vector falls to {cosine:.4f} (at least {MIN_COSINE}). Calibrate on more images of "
            "all classes, or export without this variant"
        )
    return Fidelity(len(images), agreement, cosine, size, bound)


def accuracy(
    run: Run,
    images: torch.Tensor,
    labels: torch.Tensor,
    ids: Sequence[int],
    seen: Sequence[int] | None = None,
) -> float:
    """Returns the share of images whose class is recognised (class-IL), in [0, 1].

    Args:
        run: Maps images [B, ...] to outputs by name.
        images: The test images as the model takes them [N, ...].
        labels: Their class ids, int64 [N].
        ids: The class id of each column of `out`.
        seen: The class ids to choose from, whose images alone are counted; None takes all.

    Raises:
        ExportError: If no image is of a class seen.
    """
    wanted = [k for k, id_ in enumerate(ids) if seen is None or id_ in seen]
    columns = torch.tensor(wanted, dtype=torch.int64)
    choices = torch.tensor(list(ids))[columns]
    counted = torch.isin(labels.cpu(), choices)
    if not counted.any():
        raise ExportError("accuracy needs test images of the classes seen, and there are none")
    scores = _run(run, images[counted])["out"][:, columns]
    return (choices[scores.argmax(1)] == labels.cpu()[counted]).double().mean().item()


def check_accuracy(
    kind: str, reference: float, variant: float, max_drop: float = MAX_ACCURACY_DROP
) -> None:
    """Refuses a variant that lost more accuracy than allowed, one point unless told otherwise.

    Args:
        kind: For the message.
        reference: Accuracy of the float32 model on the test set, in [0, 1].
        variant: Accuracy of the variant on the same images.
        max_drop: How much lower it may be.

    Raises:
        ExportError: If it is lower by more.
    """
    if not variant >= reference - max_drop:
        raise ExportError(
            f"the {kind} variant is right for {variant:.2%} of the test images and float32 for "
            f"{reference:.2%}: it may lose {max_drop:.2%}. Calibrate on more images of all "
            "classes, allow a larger drop, or export without this variant"
        )


def _fp16_bound(reference: torch.Tensor) -> float:
    """Returns what a float16 output may differ by: a share of the largest value not masked."""
    values = reference[reference != torch.finfo(torch.float32).min]
    return FP16_ABSOLUTE + FP16_RELATIVE * values.abs().max().item()


def _known(kind: str) -> str:
    if kind not in VARIANTS:
        raise ExportError(f"unknown variant {kind!r}; valid: {', '.join(map(repr, VARIANTS))}")
    return kind


def _to_fp16(model: "onnx.ModelProto") -> "onnx.ModelProto":
    import_onnxruntime()
    with _quiet():
        from onnxruntime.quantization.onnx_model import ONNXModel
        from onnxruntime.transformers import float16

        # What masks a head or attention with float32's lowest number needs its range.
        in_float = [*float16.DEFAULT_OP_BLOCK_LIST, "Where"]
        converted: onnx.ModelProto = float16.convert_float_to_float16(
            model, keep_io_types=True, op_block_list=in_float
        )
        _skip_round_trips(converted.graph)
        ONNXModel(converted).topological_sort()  # its casts of the inputs come last
    return converted


def _skip_round_trips(graph: "onnx.GraphProto") -> None:
    """Keeps in float32 what would go through float16 and straight back."""
    casts = {node.output[0]: node for node in graph.node if node.op_type == "Cast"}
    for node in casts.values():
        if node.input[0] in casts:
            node.input[0] = casts[node.input[0]].input[0]
    used = {name for node in graph.node for name in node.input}
    used |= {output.name for output in graph.output}
    for output, node in casts.items():
        if output not in used:
            graph.node.remove(node)


def _to_int8(model: "onnx.ModelProto", images: np.ndarray) -> "onnx.ModelProto":
    import onnx

    import_onnxruntime()
    name = model.graph.input[0].name
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        from onnxruntime import quantization
        from onnxruntime.quantization import shape_inference

        class Images(quantization.CalibrationDataReader):
            """Hands the images out in batches."""

            def __init__(self) -> None:
                self._batches = iter(np.array_split(images, -(-len(images) // _BATCH)))

            def get_next(self) -> dict[str, np.ndarray] | None:
                batch = next(self._batches, None)
                return None if batch is None else {name: batch}

        # Not the message itself, which the tool would empty of its weights.
        given, prepared, quantised = (Path(folder, f"{stage}.onnx") for stage in ("a", "b", "c"))
        onnx.save(model, given)
        shape_inference.quant_pre_process(given, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            quantised,
            Images(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(_QUANTISED),
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
        )
        variant = onnx.load(quantised)
    if not any(weights.data_type == onnx.TensorProto.INT8 for weights in variant.graph.initializer):
        raise ExportError(
            "the model has nothing to quantise: no convolution, linear layer or matrix product "
            "with weights. Export without the int8 variant"
        )
    return variant


def _check_calibration(model: "onnx.ModelProto", images: np.ndarray | None) -> np.ndarray:
    import onnx

    if images is None:
        raise ExportError(
            "the int8 variant needs images to measure the ranges of activations on: give "
            f"{MIN_CALIBRATION} or more of the training data or the replay buffer, as calibration= "
            "or with --calibration FILE.npy"
        )
    tensor = model.graph.input[0].type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    shape = tuple(dim.dim_value for dim in tensor.shape.dim[1:])
    if images.dtype != dtype or images.shape[1:] != shape:
        raise ExportError(
            f"calibration images must be {dtype} [N, {', '.join(map(str, shape))}], as the model "
            f"takes them, but are {images.dtype} {list(images.shape)}"
        )
    if len(images) < MIN_CALIBRATION:
        raise ExportError(
            f"{len(images)} calibration images are too few: the int8 variant needs "
            f"{MIN_CALIBRATION} or more"
        )
    spaced = np.linspace(0, len(images) - 1, min(len(images), MAX_CALIBRATION)).round()
    return np.ascontiguousarray(images[spaced.astype(np.int64)])


def _restore(variant: "onnx.ModelProto", source: "onnx.ModelProto") -> None:
    """Gives a converted model the head of its source, without what the tools wrote about it."""
    del variant.metadata_props[:], variant.graph.value_info[:]
    variant.metadata_props.extend(source.metadata_props)
    variant.producer_name, variant.producer_version = source.producer_name, source.producer_version
    used = {node.domain for node in variant.graph.node}
    opsets = [opset for opset in variant.opset_import if opset.domain in used]
    del variant.opset_import[:]
    variant.opset_import.extend(opsets)


def _run(run: Run, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Runs images in batches and joins the outputs."""
    parts = [run(batch) for batch in images.split(_BATCH)]
    return {name: torch.cat([part[name].cpu() for part in parts]) for name in parts[0]}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences ONNX Runtime's tools and undoes what importing them does to `sys.path`."""
    path = list(sys.path)
    try:
        with quiet():
            yield
    finally:
        sys.path[:] = path
