"""Writes the graph as one ONNX file: opset 20, named outputs, any batch size, no local paths."""

import contextlib
import io
import logging
import os
import re
import textwrap
import traceback
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.graph import INPUT, NamedOutputs

if TYPE_CHECKING:
    import onnx

FILE_NAME = "model.onnx"
OPSET = 20
BATCH = "batch"

# A protobuf message ends at 2 GiB; the nodes and names beside the weights take a few MiB.
_MAX_WEIGHT_BYTES = 2**31 - 2**26

# What torch says when it cannot export, what that means, and what helps.
_CAUSES = (
    (
        re.compile("data-dependent"),
        "its forward branches on the values of the images",
        "Choose with torch.where instead of `if`",
    ),
    (
        re.compile("inferred a static shape"),
        "its forward works for one batch size only",
        "Take sizes from x.shape and do not loop over the batch",
    ),
    (
        re.compile(r"No ONNX function found for .*?op='(?P<operator>[\w.]+)'"),
        "ONNX has no operator for {operator}",
        "Write it with other torch operators",
    ),
)


def write(graph: NamedOutputs) -> bytes:
    """Returns the serialised ONNX model of a graph.

    One input, `input`, float32 [batch, C, H, W]; the graph's outputs under their names, float32
    [batch, width]. Weights are inside and named as in the backbone's state_dict, below `net.`.

    Raises:
        ExportError: If the backbone uses what ONNX cannot express, fixes the batch size, or has
            2 GB of weights or more; says what and where.
    """
    _check_size(graph.net)
    model = _translate(graph)
    _strip(model)
    check(model, graph)
    data: bytes = model.SerializeToString()
    return data


def check(model: "onnx.ModelProto", graph: NamedOutputs) -> None:
    """Checks the form of a model: its names do not collide, and its shapes are the graph's.

    Raises:
        ExportError: If the model is not valid ONNX, or its input or outputs are not the graph's.
    """
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exported graph is not valid ONNX: {_first_line(error)}") from error
    want = {INPUT: [*graph.input_shape]} | {name: [k] for name, k in graph.widths.items()}
    got = {value.name: _shape(value) for value in (*model.graph.input, *model.graph.output)}
    if list(got) != list(want):
        raise ExportError(
            f"the exported graph has the inputs and outputs {', '.join(got)} instead of "
            f"{', '.join(want)}"
        )
    for name, (batch, *rest) in got.items():
        if isinstance(batch, int) or rest != want[name]:
            raise ExportError(
                f"the exported graph says shape {[batch, *rest]} for {name!r}, which should be "
                f"{[BATCH, *want[name]]}: the backbone's forward fixes a size that depends on the "
                "batch. Take sizes from x.shape, and flatten with x.flatten(1)"
            )


def with_metadata(data: bytes, properties: Mapping[str, str]) -> bytes:
    """Returns a serialised model with properties added to its `metadata_props`.

    The bytes of the model stay as they are, so that the graph that was compared is the graph that
    is written: protobuf messages merge when their bytes are joined.
    """
    import onnx

    extra = onnx.ModelProto()
    for key, value in properties.items():
        extra.metadata_props.add(key=key, value=value)
    return data + extra.SerializeToString()


def _check_size(net: nn.Module) -> None:
    num_bytes = sum(t.numel() * t.element_size() for t in (*net.parameters(), *net.buffers()))
    if num_bytes > _MAX_WEIGHT_BYTES:
        raise ExportError(
            f"backbone {type(net).__name__} has {num_bytes / 1e9:.2f} GB of weights, and one ONNX "
            "file holds less than 2.1 GB"
        )


def _translate(graph: NamedOutputs) -> "onnx.ModelProto":
    # Not 1: a dimension of size one is easily taken for a constant.
    example = torch.zeros(2, *graph.input_shape, dtype=torch.float32, device="cpu")
    try:
        with _quiet():
            program = torch.onnx.export(
                graph,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=list(graph.widths),
                dynamic_shapes=({0: BATCH},),
                verbose=False,
            )
            assert program is not None  # with dynamo=True it never is
            model: onnx.ModelProto = program.model_proto
    except Exception as error:
        # Pages of torch's internals, whose gist is in the message.
        raise ExportError(_explain(error, graph.net)) from None
    opset = next(entry.version for entry in model.opset_import if not entry.domain)
    if opset != OPSET:  # torch only logs that its converter gave up
        raise ExportError(f"the graph could not be converted to opset {OPSET}: it is {opset}")
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences torch while it exports.

    It warns of things that the comparison with eager settles, and where it fails it writes whole
    graphs to standard error before it raises.
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _strip(message: Any) -> None:
    """Clears the free text of a protobuf message and all below it.

    torch writes the stack trace of every node into it, with the paths of the machine's files.
    """
    for field, value in message.ListFields():
        if field.name in ("doc_string", "metadata_props"):
            message.ClearField(field.name)
        elif field.type == field.TYPE_MESSAGE:
            for child in [value] if hasattr(value, "ListFields") else value:
                _strip(child)


def _shape(value: "onnx.ValueInfoProto") -> list[int | str]:
    return [
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param
        for dim in value.type.tensor_type.shape.dim
    ]


def _explain(error: Exception, net: nn.Module) -> str:
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    reason, remedy = f"{type(root).__name__}: {_first_line(root)}", "Write that part differently"
    for pattern, meaning, help_ in _CAUSES:
        match = pattern.search(str(root))
        if match:
            reason, remedy = meaning.format(**match.groupdict()), help_
            break
    return (
        f"backbone {type(net).__name__} cannot be exported to ONNX: {reason}{_where(root)}. "
        f"{remedy}"
    )


def _where(error: BaseException) -> str:
    """Returns the last line of the user's own code in a traceback, where there is one."""
    foreign = (os.path.dirname(torch.__file__), os.path.dirname(os.__file__), "<")
    ours = os.path.dirname(__file__)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((*foreign, ours))
    ]
    if not frames:
        return ""
    return f" ({frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line})"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or ["no reason given"]
    return textwrap.shorten(lines[0], 200)
