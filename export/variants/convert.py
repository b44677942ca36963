"""Converts a float32 ONNX model to float16 or to 8-bit integers."""

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.capture.program import quiet
from mammoth_compiled.export.onnx_runtime import import_onnxruntime

if TYPE_CHECKING:
    import onnx

VARIANTS = ("fp16", "int8")

# With fewer images the activation ranges are left to chance; with more they hardly change.
MIN_CALIBRATION, MAX_CALIBRATION = 32, 512
_BATCH_SIZE = 32

# Operators that compute in integers, and those that pass integers on between them. Softmax, sigmoid
# and normalization stay in float: 256 levels do not cover their ranges.
_QUANTIZED = (
    *("Conv", "Gemm", "MatMul"),
    *("Add", "AveragePool", "Clip", "Concat", "Flatten", "GlobalAveragePool", "MaxPool", "Relu"),
    *("Reshape", "Squeeze", "Transpose", "Unsqueeze"),
)


def file_name(kind: str) -> str:
    """Returns the file name of a variant in a bundle.

    Raises:
        ExportError: If there is no such variant; lists the valid ones.
    """
    return f"model.{_check_kind(kind)}.onnx"


def convert(kind: str, model: bytes, calibration: np.ndarray | None = None) -> bytes:
    """Returns a smaller variant of an ONNX model.

    Names, shapes and dtypes of the input and outputs, the metadata and the restriction to standard
    operators stay as they are.

    `fp16` computes and stores in float16. `int8` computes convolutions and matrix products in
    integers: weights are int8 per output channel, activations uint8 with ranges measured on
    `calibration`, written as pairs of QuantizeLinear and DequantizeLinear. Weights use only 7 of
    their 8 bits: x86 processors without VNNI add pairs of products in 16 bits, and this way compute
    the same as all others.

    Args:
        kind: `fp16` or `int8`.
        model: The serialized float32 model.
        calibration: For `int8`, at least 32 images of the training data or the replay buffer as
            the model takes them [N, ...]. Of more than 512, 512 evenly spaced ones are used.

    Raises:
        ExportError: If `kind` is unknown, the images are missing, too few or of another form, or
            the model has nothing to quantize.
    """
    import onnx

    _check_kind(kind)
    source = onnx.load_from_string(model)
    if kind == "fp16":
        variant = _to_fp16(onnx.load_from_string(model))
    else:
        variant = _to_int8(source, _select_calibration(source, calibration))
    _restore_header(variant, source)
    data: bytes = variant.SerializeToString()
    return data


def variant_names(given: str | Sequence[str] | None) -> tuple[str, ...]:
    """Resolves names of variants, without duplicates.

    Args:
        given: Names, as a sequence or a comma-separated string. None means none.

    Raises:
        ExportError: If a variant is unknown; lists the valid ones.
    """
    names = given.split(",") if isinstance(given, str) else given or ()
    stripped = (name.strip() for name in names)
    return tuple(dict.fromkeys(_check_kind(name) for name in stripped if name))


def _check_kind(kind: str) -> str:
    if kind not in VARIANTS:
        raise ExportError(f"unknown variant {kind!r}; valid: {', '.join(map(repr, VARIANTS))}")
    return kind


def _to_fp16(model: "onnx.ModelProto") -> "onnx.ModelProto":
    import_onnxruntime()
    with _quiet():
        from onnxruntime.quantization.onnx_model import ONNXModel
        from onnxruntime.transformers import float16

        # Masks of heads and attention use the lowest float32, which float16 cannot hold.
        in_float = [*float16.DEFAULT_OP_BLOCK_LIST, "Where"]
        converted: onnx.ModelProto = float16.convert_float_to_float16(
            model, keep_io_types=True, op_block_list=in_float
        )
        _remove_round_trips(converted.graph)
        ONNXModel(converted).topological_sort()  # the tool appends the casts of the inputs
    return converted


def _remove_round_trips(graph: "onnx.GraphProto") -> None:
    """Removes casts to float16 that are directly followed by casts back to float32."""
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
    with _quiet(), tempfile.TemporaryDirectory() as directory:
        from onnxruntime import quantization
        from onnxruntime.quantization import shape_inference

        class Images(quantization.CalibrationDataReader):
            """Yields the images in batches."""

            def __init__(self) -> None:
                self._batches = iter(np.array_split(images, -(-len(images) // _BATCH_SIZE)))

            def get_next(self) -> dict[str, np.ndarray] | None:
                batch = next(self._batches, None)
                return None if batch is None else {name: batch}

        # Through files, because the tool would remove the weights from a message in memory.
        saved, prepared, quantized = (Path(directory, f"{step}.onnx") for step in ("a", "b", "c"))
        onnx.save(model, saved)
        shape_inference.quant_pre_process(saved, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            quantized,
            Images(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(_QUANTIZED),
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
        )
        variant = onnx.load(quantized)
    if not any(weights.data_type == onnx.TensorProto.INT8 for weights in variant.graph.initializer):
        raise ExportError(
            "the model has nothing to quantize: no convolution, linear layer or matrix product "
            "with weights. Export without the int8 variant"
        )
    return variant


def _select_calibration(model: "onnx.ModelProto", images: np.ndarray | None) -> np.ndarray:
    """Checks the calibration images and returns at most 512 of them, evenly spaced."""
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


def _restore_header(variant: "onnx.ModelProto", source: "onnx.ModelProto") -> None:
    """Restores metadata, producer and opsets of the source model after a conversion."""
    del variant.metadata_props[:], variant.graph.value_info[:]
    variant.metadata_props.extend(source.metadata_props)
    variant.producer_name, variant.producer_version = source.producer_name, source.producer_version
    used = {node.domain for node in variant.graph.node}
    opsets = [opset for opset in variant.opset_import if opset.domain in used]
    del variant.opset_import[:]
    variant.opset_import.extend(opsets)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences ONNX Runtime's tools, and restores `sys.path`, which importing them changes."""
    path = list(sys.path)
    try:
        with quiet():
            yield
    finally:
        sys.path[:] = path
