"""Every registered backbone matches eager mode after export to ONNX and torch.export."""

import sys
import sysconfig
from pathlib import Path

import onnx
import pytest
import torch
from contract_cases import BackboneCase, case_of

import mammoth_compiled.backbones
from mammoth_compiled.export import export_bundle, load_bundle
from mammoth_compiled.registry import backbones


def build(name):
    """Returns a small version of a registered backbone, and the shape of its images."""
    entry = backbones[name]
    case = case_of(entry, BackboneCase())
    return entry.target(num_classes=7, **case.arguments), case.input_shape


def built_in():
    """Returns the names of the built-in backbones; exporting a deep one is slow."""
    found = []
    for name in sorted(backbones):
        if backbones[name].origin.startswith("mammoth_compiled."):
            with torch.device("meta"):
                net, _ = build(name)
            depth = sum(isinstance(module, torch.nn.Conv2d) for module in net.modules())
            found.append(pytest.param(name, marks=pytest.mark.slow if depth > 20 else ()))
    return found


def local_paths():
    folders = {
        Path.cwd(),
        Path.home(),
        Path(__file__).parent,
        Path(torch.__file__).parent,
        Path(mammoth_compiled.backbones.__file__).parent.parent,
        Path(sys.prefix),
        Path(sysconfig.get_paths()["stdlib"]),
    }
    return [str(folder) for folder in folders if len(str(folder)) > 1]


def values(message):
    """Yields all strings and byte strings of a protobuf message except the weights."""
    for field, value in message.ListFields():
        children = (
            [value] if isinstance(value, (str, bytes)) or hasattr(value, "ListFields") else value
        )
        if field.name == "raw_data":
            continue
        if field.type == field.TYPE_MESSAGE:
            for child in children:
                yield from values(child)
        elif field.type in (field.TYPE_STRING, field.TYPE_BYTES):
            yield from (c if isinstance(c, bytes) else c.encode() for c in children)


@pytest.mark.parametrize("name", built_in())
def test_registered_backbone_roundtrip(name, tmp_path):
    net, shape = build(name)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    path = export_bundle(net, tmp_path / "bundle", input_shape=shape)

    assert {entry.name for entry in path.iterdir()} == {
        *("model.onnx", "model.out.onnx", "model.features.onnx", "model.pt2"),
        *("weights.safetensors", "manifest.json", "README.md", "golden"),
    }
    model = onnx.load(path / "model.onnx", load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert not model.functions

    bundle = load_bundle(path)
    graph_shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert graph_shapes == {
        "input": ["batch", *shape],
        "out": ["batch", 7],
        "features": ["batch", bundle.interface.outputs["features"][0]],
    }

    texts = list(values(model))
    assert len(texts) > len(model.graph.node)
    for folder in local_paths():
        assert not [text for text in texts if folder.encode() in text]

    net.eval()
    program = load_bundle(path, runtime="pt2")
    for batch_size in (1, 5):
        images = torch.randn(batch_size, *shape)
        with torch.no_grad():
            expected = net(images, returnt="both")
        torch.testing.assert_close(bundle(images), expected[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(bundle(images, "features"), expected[1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(bundle(images, returnt="both"), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(program(images, returnt="both"), expected, rtol=1e-4, atol=1e-5)


def test_path_check_detects_a_path():
    node = onnx.NodeProto(name="n", doc_string=f"File {Path.cwd()}/x.py")
    model = onnx.ModelProto(graph=onnx.GraphProto(node=[node]))
    assert any(str(Path.cwd()).encode() in text for text in values(model))
