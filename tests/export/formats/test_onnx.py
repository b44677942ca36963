"""The ONNX format: initializers, size limit, and the check of the exported model."""

import numpy as np
import onnx
import pytest
from torch import nn

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.backbones.contract import Contract
from mammoth_compiled.errors import ExportError
from mammoth_compiled.export import export_bundle
from mammoth_compiled.export.capture.graph import NamedOutputs
from mammoth_compiled.export.formats import onnx as to_onnx
from mammoth_compiled.types import ReturnTypes

SHAPE = (3, 8, 6)


class OutOnly(MammothBackbone):
    """Has a forward without `returnt`."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3 * 8 * 6, 4)

    def forward(self, x):
        return self.fc(x.flatten(1))


def test_too_many_weights_raise_before_the_export(small_net, monkeypatch, tmp_path):
    monkeypatch.setattr(to_onnx, "_MAX_WEIGHT_BYTES", 100)
    monkeypatch.setattr(to_onnx, "to_proto", lambda source: pytest.fail("translated"))
    with pytest.raises(ExportError, match="GB of weights"):
        export_bundle(small_net, tmp_path / "b", input_shape=SHAPE)


def relu_model(middle, end, width=4, batch="batch"):
    """input -> Relu -> middle -> Neg -> end."""
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Relu", ["input"], [middle]),
        helper.make_node("Neg", [middle], [end]),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("input", float32, [batch, 3, 8, 6])],
        [helper.make_tensor_value_info(end, float32, [batch, 3, 8, 6][: 4 if width == 4 else 2])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (relu_model("out", "out"), "not valid ONNX: .*'out' has been used"),
        (relu_model("input", "out"), "not valid ONNX: .*'input' has been used"),
        (relu_model("a", "features"), "input, features instead of input, out"),
        (relu_model("a", "out", batch=2), r"shape \[2, 3, 8, 6\] for 'input'"),
        (relu_model("a", "out"), r"shape \['batch', 3, 8, 6\] for 'out'"),
    ],
)
def test_check_finds_name_collisions_and_wrong_shapes(model, message):
    graph = NamedOutputs(OutOnly(), Contract(SHAPE, 4, None, (ReturnTypes.OUT,)))
    with pytest.raises(ExportError, match=message):
        to_onnx.check(model, graph.interface)


@pytest.mark.parametrize("name", ["model.onnx", "model.out.onnx", "model.features.onnx"])
def test_onnx_initializers_equal_the_state_dict(every_format, name):
    net, path = every_format
    model = onnx.load(path / name)
    state = {f"net.{key}": value for key, value in net.state_dict().items()}
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    used = set(weights) & set(state)
    assert {"net.conv.weight", "net.bn.weight", "net.bn.running_var"} <= used
    assert ("net.classifier.bias" in used) == (name != "model.features.onnx")
    for key in used:
        assert np.array_equal(weights[key], state[key].numpy())
    assert not {key for key in weights if key not in state and weights[key].dtype == np.float32}


def test_onnx_runtime_folds_batch_norm_that_the_file_keeps(every_format, tmp_path):
    import onnxruntime

    model = every_format[1] / "model.onnx"
    assert "BatchNormalization" in {node.op_type for node in onnx.load(model).graph.node}
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    nodes = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert "BatchNormalization" not in nodes
