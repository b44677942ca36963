"""ONNX: one file with all outputs and pruned ones with a single output; opset 20, any batch size.

ONNX Runtime computes outputs that nobody asked for, so `model.out.onnx` and `model.features.onnx`
stand beside `model.onnx`.

Weights are initialisers with the names of the state_dict, below `net.`, bit for bit. They are
hidden from the exporter's optimiser: it would fold batch normalisation into convolutions and drop
what happens to be zero, and the weights after the next task could no longer be put in. ONNX Runtime
folds both when it opens the file, into the graph it would make of a folded file.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.capture.program import (
    Source,
    check_portable,
    explain,
    first_line,
    quiet,
)
from mammoth_compiled.export.capture.interface import BATCH, INPUT, Interface
from mammoth_compiled.export.bundle.manifest import File
from mammoth_compiled.export.storage.protobuf import find_fields
from mammoth_compiled.export.onnx_runtime import open_session, run_session
from mammoth_compiled.export.parity.compare import Run
from mammoth_compiled.export.storage.weights import content_of, mapped

if TYPE_CHECKING:
    import onnx

FILE_NAME = "model.onnx"
OPSET = 20

# Numbers of fields in ModelProto, GraphProto and TensorProto.
_GRAPH, _INITIALIZER, _NAME, _RAW_DATA = 7, 5, 8, 9

# A protobuf message ends at 2 GiB; the nodes and names beside the weights take a few MiB.
_MAX_WEIGHT_BYTES = 2**31 - 2**26


def write(source: Source, folder: Path) -> list[File]:
    """Writes `model.onnx` and, for each of out and features, `model.NAME.onnx`.

    Raises:
        ExportError: If the backbone uses what ONNX cannot express, fixes the batch size, or has
            2 GB of weights or more; says what and where.
    """
    _check_size(source.graph.net)
    model = to_proto(source)
    files = {FILE_NAME: model}
    interface = source.graph.interface
    if len(interface.outputs) > 1:
        single = [name for name in ("out", "features") if name in interface.outputs]
        files |= {f"model.{name}.onnx": prune(model, name) for name in single}
    for name, proto in files.items():
        set_properties(proto, source.properties)
        (folder / name).write_bytes(proto.SerializeToString())
    return [
        File(name, "onnx", "fp32", tuple(output.name for output in proto.graph.output))
        for name, proto in files.items()
    ]


def open_file(path: Path, file: File, outputs: Sequence[str], device: torch.device) -> Run:
    """Returns what runs an ONNX file; see `formats.Runnable`."""
    session = open_session(path, device)

    def run(images: torch.Tensor) -> dict[str, torch.Tensor]:
        values = run_session(session, {INPUT: images.cpu().numpy()})
        return {name: values[name] for name in outputs}

    return run


def selections(file: File) -> list[tuple[str, ...]]:
    """Returns the outputs of the file, all at once; see `formats.Runnable`."""
    return [file.outputs]


def replace_weights(
    path: Path, weights: Mapping[str, torch.Tensor], properties: Mapping[str, str]
) -> None:
    """Puts other weights into a file; see `formats.Format`."""
    import onnx

    with mapped(path) as data:
        (graph,) = find_fields(data, 0, len(data))[_GRAPH]
        for tensor in find_fields(data, *graph)[_INITIALIZER]:
            fields = find_fields(data, *tensor)
            ((start, end),) = fields[_NAME]
            name = str(data[start:end], "utf-8")
            if name in weights:
                ((start, end),) = fields[_RAW_DATA]
                data[start:end] = content_of(weights, name, end - start)
    with path.open("r+b") as stream:
        # What is behind the graph is a message too.
        stream.seek(graph[1])
        rest = onnx.ModelProto.FromString(stream.read())
        set_properties(rest, properties)
        stream.seek(graph[1])
        stream.write(rest.SerializeToString())
        stream.truncate()


def to_proto(source: Source) -> "onnx.ModelProto":
    """Returns the graph of a source as an ONNX model, without properties.

    Raises:
        ExportError: As `write`.
    """
    import onnx_ir as ir

    graph = source.graph
    program = source.program()
    check_portable(program, graph.net)
    try:
        with quiet():
            exported = torch.onnx.export(
                program,
                (graph.interface.example(2),),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=list(graph.selected),
                dynamic_shapes=({0: BATCH},),
                verbose=False,
                optimize=False,
            )
            assert exported is not None  # with dynamo=True it never is
            _optimise(exported.model, set(graph.state_dict()))
            model: onnx.ModelProto = ir.to_proto(exported.model)
    except Exception as error:
        # Pages of torch's internals, whose gist is in the message.
        raise ExportError(explain(error, graph.net, "ONNX")) from None
    opset = next(entry.version for entry in model.opset_import if not entry.domain)
    if opset != OPSET:  # torch only logs that its converter gave up
        raise ExportError(f"the graph could not be converted to opset {OPSET}: it is {opset}")
    _strip(model)
    check(model, graph.interface)
    return model


def prune(model: "onnx.ModelProto", output: str) -> "onnx.ModelProto":
    """Returns a model that computes one output only."""
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    pruned = ir.from_proto(model)
    for value in list(pruned.graph.outputs):
        if value.name != output:
            pruned.graph.outputs.remove(value)
    RemoveUnusedNodesPass()(pruned)
    return ir.to_proto(pruned)


def set_properties(model: "onnx.ModelProto", properties: Mapping[str, str]) -> None:
    """Replaces a model's `metadata_props`."""
    del model.metadata_props[:]
    for key, value in properties.items():
        model.metadata_props.add(key=key, value=value)


def check(model: "onnx.ModelProto", interface: Interface) -> None:
    """Checks the form of a model: its names do not collide, and its shapes are the interface's.

    Raises:
        ExportError: If the model is not valid ONNX, or its input or outputs are not those.
    """
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exported graph is not valid ONNX: {first_line(error)}") from error
    want = {INPUT: [*interface.item_shape]}
    want |= {name: [*shape] for name, shape in interface.outputs.items()}
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


def _optimise(model: Any, weights: set[str]) -> None:
    """Simplifies an onnx_ir model in place, with the values of the weights out of sight."""
    from onnxscript import optimizer

    graph = model.graph
    hidden = [value for name, value in graph.initializers.items() if name in weights]
    values = [value.const_value for value in hidden]
    for value in hidden:
        del graph.initializers[value.name]
        value.const_value = None
        graph.inputs.append(value)
    optimizer.optimize(model)
    for value, const_value in zip(hidden, values, strict=True):
        graph.inputs.remove(value)
        value.const_value = const_value
        if value.uses():
            graph.initializers[value.name] = value


def _check_size(net: nn.Module) -> None:
    num_bytes = sum(t.numel() * t.element_size() for t in (*net.parameters(), *net.buffers()))
    if num_bytes > _MAX_WEIGHT_BYTES:
        raise ExportError(
            f"backbone {type(net).__name__} has {num_bytes / 1e9:.2f} GB of weights, and one ONNX "
            "file holds less than 2.1 GB. Choose --formats pt2,safetensors"
        )


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
