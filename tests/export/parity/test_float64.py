"""Nets that amplify rounding errors are exported, and wrong exports of them are still refused."""

import copy

import onnx
import pytest
import torch
from torch import nn

from mammoth_compiled.backbones import probe
from mammoth_compiled.backbones.base import MammothBackbone, select_return
from mammoth_compiled.errors import ExportError
from mammoth_compiled.export import export_bundle, load_bundle, verify_bundle
from mammoth_compiled.export.bundle.manifest_reader import read_manifest
from mammoth_compiled.export.capture.graph import NamedOutputs
from mammoth_compiled.export.capture.program import Source
from mammoth_compiled.export.formats import onnx as to_onnx
from mammoth_compiled.export.parity.float64 import Float64
from mammoth_compiled.types import ReturnTypes

SHAPE = (3, 12, 12)
NORMS = {
    "instance": nn.InstanceNorm2d,
    "affine-instance": lambda c: nn.InstanceNorm2d(c, affine=True),
    "group": lambda c: nn.GroupNorm(c, c),
    "batch-statistics": lambda c: nn.BatchNorm2d(c, track_running_stats=False),
}


class NormedNet(MammothBackbone):
    """Two convolutions with a norm, the first of which divides zeros by sqrt(eps) for zeros."""

    def __init__(self, norm):
        super().__init__()
        self.conv = nn.ModuleList([nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)])
        self.norm = nn.ModuleList([norm(16), norm(16)])
        self.classifier = nn.Linear(16, 4)
        for conv in self.conv:
            nn.init.uniform_(conv.bias, 1, 3)  # the maps of zeros, whose mean is rounded

    def forward(self, x, returnt=ReturnTypes.OUT):
        for conv, norm in zip(self.conv, self.norm, strict=True):
            x = norm(conv(x)).relu()
        features = x.mean((2, 3))
        return select_return(self.classifier(features), features, returnt)


def references(path):
    return {d.reference for file in read_manifest(path).models for d in file.parity.values()}


@pytest.mark.parametrize("norm", NORMS)
def test_norms_of_constant_maps_are_exported(norm, tmp_path):
    net = NormedNet(NORMS[norm]).eval()
    formats = "onnx,pt2,torchscript,safetensors"
    path = export_bundle(net, tmp_path / "b", input_shape=SHAPE, formats=formats)
    assert references(path) == {"eager", "float64"}  # ONNX Runtime adds in another order
    verify_bundle(path)
    bundle, images = load_bundle(path), torch.rand(3, *SHAPE)
    assert max(d.size for d in bundle.parity.values()) > 1e-5
    torch.testing.assert_close(torch.as_tensor(bundle(images)), net(images))


def test_smaller_variants_of_norms(tmp_path):
    net, images = NormedNet(nn.InstanceNorm2d), torch.randn(48, *SHAPE)
    path = export_bundle(
        net,
        tmp_path / "b",
        input_shape=SHAPE,
        formats="onnx",
        variants="fp16,int8",
        calibration=images,
    )
    for precision in ("fp16", "int8"):
        found = torch.as_tensor(load_bundle(path, precision=precision)(images))
        torch.testing.assert_close(found, net(images), rtol=0.1, atol=0.1)


@pytest.mark.slow
def test_norms_of_constant_maps_are_compiled(require_format, tmp_path):
    require_format("aoti")
    net = NormedNet(nn.InstanceNorm2d)
    path = export_bundle(net, tmp_path / "b", input_shape=SHAPE, formats="aoti")
    verify_bundle(path)


@pytest.mark.parametrize(
    ("norm", "fault"), [("instance", "eps"), ("group", "weight"), ("batch-statistics", "head")]
)
def test_wrong_graphs_are_refused(norm, fault, tmp_path, monkeypatch):
    net, wrong = NormedNet(NORMS[norm]), NormedNet(NORMS[norm])
    wrong.load_state_dict(net.state_dict())
    with torch.no_grad():
        if fault == "eps":
            wrong.norm[1].eps *= 10
        else:
            (wrong.conv[1] if fault == "weight" else wrong.classifier).weight[0, 0] += 1e-3
    translate = to_onnx.to_proto

    def translate_wrong(source):
        graph = copy.deepcopy(source.graph)
        graph.net = wrong.eval()
        return translate(Source(graph))

    monkeypatch.setattr(to_onnx, "to_proto", translate_wrong)
    message = r"differs from eager: .* \(random\) differs by .*; from float64 it differs by .*bound"
    with pytest.raises(ExportError, match=message):
        export_bundle(net, tmp_path / "b", input_shape=SHAPE, formats="onnx")
    assert not list(tmp_path.iterdir())


def test_rounding_explains_little_where_nets_are_well_conditioned():
    net = NormedNet(nn.InstanceNorm2d).eval()
    graph = NamedOutputs(net, probe(net, SHAPE))
    float64 = Float64(graph)
    explained = {}
    for kind, images in (("random", torch.randn(2, *SHAPE)), ("zeros", torch.zeros(2, *SHAPE))):
        exact, explained[kind] = float64.evaluate("features", images)
        assert exact.dtype == torch.float64
        torch.testing.assert_close(exact.float(), net.features(images), rtol=0, atol=1e-3)
    assert explained["random"] < 1e-4
    assert 1e-3 < explained["zeros"] < 1


def test_backbone_without_float64_is_compared_with_eager_only(tmp_path, monkeypatch):
    class Casts(NormedNet):
        def forward(self, x, returnt=ReturnTypes.OUT):
            return super().forward(x.float(), returnt)

    net = Casts(nn.InstanceNorm2d).eval()
    graph = NamedOutputs(net, probe(net, SHAPE))
    assert Float64(graph).evaluate("out", torch.zeros(1, *SHAPE)) is None
    with pytest.raises(ExportError, match=r"\(zeros\) differs by .* bound is [0-9.e-]+$"):
        export_bundle(net, tmp_path / "b", input_shape=SHAPE, formats="onnx")


def test_verify_refuses_what_the_export_would(tmp_path, rehash):
    net = NormedNet(nn.InstanceNorm2d)
    path = export_bundle(net, tmp_path / "b", input_shape=SHAPE, formats="onnx")
    for name in ("model.onnx", "model.out.onnx"):
        model = onnx.load(path / name)
        bias = next(t for t in model.graph.initializer if t.name.endswith("classifier.bias"))
        moved = onnx.numpy_helper.to_array(bias) + 0.1
        bias.CopyFrom(onnx.numpy_helper.from_array(moved, bias.name))
        onnx.save(model, path / name)
        rehash(path, name)
    with pytest.raises(ExportError, match=r"model\.onnx differs"):
        verify_bundle(path)
