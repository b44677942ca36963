"""ONNX, opset 20: one file with all outputs, and pruned files with a single output each.

ONNX Runtime computes all outputs of a file, even those that the caller does not request, hence
`model.out.onnx` and `model.features.onnx` beside `model.onnx`.

Weights are initializers, bit for bit, with their names in the state_dict under `net.`. They are
hidden from the exporter's optimizer, which would fold batch normalization into convolutions and
drop weights that happen to be zero; an update could then not replace them. ONNX Runtime does this
folding itself when it opens a file.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.bundle.manifest import File, Manifest
from mammoth_compiled.export.bundle.onnx_snippets import onnx_snippets
from mammoth_compiled.export.bundle.versions import package_version
from mammoth_compiled.export.capture.interface import BATCH, INPUT, Interface, Run
from mammoth_compiled.export.capture.program import Source, explain, first_line, quiet
from mammoth_compiled.export.formats.base import RunnableFormat, register_format
from mammoth_compiled.export.onnx_runtime import import_onnxruntime, open_session, run_session
from mammoth_compiled.export.storage.protobuf import find_fields
from mammoth_compiled.export.storage.weights import weight_bytes, writable_bytes

if TYPE_CHECKING:
    import onnx
    import onnxruntime

FILE_NAME = "model.onnx"
OPSET = 20

# Field numbers in ModelProto, GraphProto and TensorProto.
_GRAPH, _INITIALIZER, _NAME, _RAW_DATA = 7, 5, 8, 9

# A protobuf message is limited to 2 GiB; nodes and names take a few MiB.
_MAX_WEIGHT_BYTES = 2**31 - 2**26


@register_format
class Onnx(RunnableFormat):
    """Writes `model.onnx` and, for each of out and features, `model.NAME.onnx`."""

    name = "onnx"
    description = "ONNX model, for any ONNX runtime"
    default = True
    torch_operators_only = True

    def write(self, source: Source, directory: Path) -> list[File]:
        """Translates the captured program.

        Raises:
            ExportError: If ONNX cannot express the backbone, the batch size is fixed, or the
                weights take 2 GB or more; says what and where.
        """
        _check_size(source.graph.net)
        model = to_proto(source)
        models = {FILE_NAME: model}
        outputs = source.graph.interface.outputs
        if len(outputs) > 1:
            single = [name for name in ("out", "features") if name in outputs]
            models |= {f"model.{name}.onnx": prune(model, name) for name in single}
        for file_name, proto in models.items():
            set_properties(proto, source.properties)
            (directory / file_name).write_bytes(proto.SerializeToString())
        return [
            File(file_name, self.name, "fp32", tuple(output.name for output in proto.graph.output))
            for file_name, proto in models.items()
        ]

    def open_model(
        self, path: Path, file: File, outputs: Sequence[str], device: torch.device
    ) -> Run:
        """Opens a session; see `RunnableFormat`."""
        session = open_session(path, device)
        _check_signature(session, path, outputs)

        def run(images: torch.Tensor) -> dict[str, torch.Tensor]:
            values = run_session(session, {INPUT: images.cpu().numpy()})
            return {name: values[name] for name in outputs}

        return run

    def replace_weights(
        self, path: Path, weights: Mapping[str, torch.Tensor], properties: Mapping[str, str]
    ) -> None:
        """Overwrites the initializers, and replaces the metadata; see `Format`."""
        import onnx

        with writable_bytes(path) as data:
            (graph,) = find_fields(data, 0, len(data))[_GRAPH]
            for tensor in find_fields(data, *graph)[_INITIALIZER]:
                fields = find_fields(data, *tensor)
                ((start, end),) = fields[_NAME]
                name = str(data[start:end], "utf-8")
                if name in weights:
                    ((start, end),) = fields[_RAW_DATA]
                    data[start:end] = weight_bytes(weights, name, end - start)
        with path.open("r+b") as stream:
            # The fields that follow the graph are a valid message of their own.
            stream.seek(graph[1])
            rest = onnx.ModelProto.FromString(stream.read())
            set_properties(rest, properties)
            stream.seek(graph[1])
            stream.write(rest.SerializeToString())
            stream.truncate()

    def stored_weights(self, path: Path) -> Mapping[str, torch.Tensor]:
        """Returns the initializers; see `Format`."""
        import onnx

        initializers = onnx.load(path).graph.initializer
        return {
            t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy()) for t in initializers
        }

    def check_installed(self) -> None:
        """Checks for ONNX Runtime, which verifies the files."""
        import_onnxruntime()

    def versions(self) -> dict[str, str]:
        """Returns the version of onnx and the opset."""
        return {"onnx": package_version("onnx"), "opset": str(OPSET)}

    def example(self, manifest: Manifest) -> str:
        """Returns how to run the model with ONNX Runtime and Triton, in several languages."""
        return onnx_snippets(manifest)


def _check_signature(
    session: "onnxruntime.InferenceSession", path: Path, outputs: Sequence[str]
) -> None:
    """Refuses a model that has another input, or lacks an output."""
    found = {output.name: output.type for output in session.get_outputs()}
    if [i.name for i in session.get_inputs()] != [INPUT] or any(
        found.get(name) != "tensor(float)" for name in outputs
    ):
        raise ExportError(
            f"{path} has other inputs or outputs than the manifest says: export the bundle again",
            "damaged",
        )


def to_proto(source: Source) -> "onnx.ModelProto":
    """Returns the graph of a source as an ONNX model, without metadata.

    Raises:
        ExportError: See `Onnx.write`.
    """
    import onnx_ir as ir

    graph = source.graph
    program = source.program()
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
            assert exported is not None  # it is only without dynamo=True
            _optimize(exported.model, set(graph.state_dict()))
            model: onnx.ModelProto = ir.to_proto(exported.model)
    except Exception as error:
        # The chained traceback is pages of torch internals; the message has the gist.
        raise ExportError(explain(error, graph.net, "ONNX")) from None
    opset = next(entry.version for entry in model.opset_import if not entry.domain)
    if opset != OPSET:  # torch only logs it if the version converter fails
        raise ExportError(f"the graph could not be converted to opset {OPSET}: it is {opset}")
    _strip(model)
    _name_sizes(model, graph.interface)
    check(model, graph.interface)
    return model


def prune(model: "onnx.ModelProto", output: str) -> "onnx.ModelProto":
    """Returns a model that computes a single output."""
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
    """Checks that a model is valid, its names do not collide, and its shapes are the interface's.

    Raises:
        ExportError: If the model is not valid ONNX, or its input or outputs differ.
    """
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exported graph is not valid ONNX: {first_line(error)}") from error
    expected = {INPUT: [*interface.item_shape]}
    expected |= {name: [*shape] for name, shape in interface.outputs.items()}
    shapes = {value.name: _shape(value) for value in (*model.graph.input, *model.graph.output)}
    if list(shapes) != list(expected):
        raise ExportError(
            f"the exported graph has the inputs and outputs {', '.join(shapes)} instead of "
            f"{', '.join(expected)}"
        )
    for name, (batch, *rest) in shapes.items():
        if isinstance(batch, int) or rest != expected[name]:
            raise ExportError(
                f"the exported graph has shape {[batch, *rest]} for {name!r} instead of "
                f"{[BATCH, *expected[name]]}: the backbone's forward fixes a size that depends on "
                "the batch. Take sizes from x.shape, and flatten with x.flatten(1)"
            )


def _name_sizes(model: "onnx.ModelProto", interface: Interface) -> None:
    """Writes the sizes of outputs that torch left as expressions of the batch size.

    It does not simplify all of them, such as `int(4 * batch / 2 / 2)`. A wrong size is found when
    the file is compared with eager mode.
    """
    for value in model.graph.output:
        expected = (BATCH, *interface.outputs.get(value.name, ()))
        dims = value.type.tensor_type.shape.dim
        if len(dims) != len(expected):
            continue
        for dim, size in zip(dims, expected, strict=True):
            if dim.HasField("dim_param") and dim.dim_param != str(size):
                dim.Clear()
                if isinstance(size, int):
                    dim.dim_value = size
                else:
                    dim.dim_param = size


def _optimize(model: Any, weights: set[str]) -> None:
    """Simplifies an onnx_ir model in place, while its weights are inputs without a value."""
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
    """Clears the comments in a protobuf message and all its submessages.

    torch stores the stack trace of every node in them, with paths of this machine.
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
