"""Every format matches eager mode, and its files have the documented content."""

import zipfile

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from mammoth_compiled.backbones.base import MammothBackbone, select_return
from mammoth_compiled.errors import ExportError
from mammoth_compiled.export import export_bundle, load_bundle
from mammoth_compiled.export.bundle.manifest_reader import read_manifest
from mammoth_compiled.export.formats import FORMATS, format_names, runtimes
from mammoth_compiled.types import ReturnTypes

SHAPE = (3, 8, 6)
IMAGES = torch.linspace(-2, 2, 5 * 3 * 8 * 6).reshape(5, *SHAPE)


def eager(net, returnt, images=IMAGES):
    with torch.no_grad():
        return net(images, returnt=returnt)


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "runtime"),
    [(name, alias) for name, format_ in runtimes().items() for alias in (name, *format_.aliases)],
)
def test_every_runtime_matches_eager_mode(every_format, require_format, name, runtime):
    require_format(name)
    net, path = every_format
    bundle = load_bundle(path, runtime=runtime)
    for returnt in ("out", "features", "both"):
        fixed = load_bundle(path, runtime=runtime, returnt=returnt)
        for images in (IMAGES, IMAGES[:1], IMAGES.to(memory_format=torch.channels_last)):
            close(bundle(images, returnt), eager(net, returnt, images))
            close(fixed(images), eager(net, returnt, images))
        assert fixed.supports == (ReturnTypes(returnt),)


def test_manifest_lists_every_format_with_its_parity(every_format, reason_missing):
    files = read_manifest(every_format[1]).files
    written = {name for name in FORMATS if not reason_missing(name)}
    assert written <= {file.format for file in files}
    for file in files:
        if file.is_model:
            assert list(file.parity) == list(file.outputs)
            assert all(d.size <= d.bound for d in file.parity.values())


def test_format_names():
    assert format_names(None) == ("onnx", "pt2", "safetensors")
    assert format_names("onnx, ts,onnx") == ("onnx", "torchscript")
    assert format_names(["aoti"]) == ("aoti",)
    for given, message in (
        ("onxx", "unknown format 'onxx'. Did you mean 'onnx'"),
        ([], "no format"),
    ):
        with pytest.raises(ExportError, match=message):
            format_names(given)


def test_safetensors_equal_the_state_dict(every_format, small_net):
    net, path = every_format
    small_net.load_state_dict(load_file(path / "weights.safetensors"))
    close(small_net.eval()(IMAGES, "both"), eager(net, "both"))


def test_programs_call_aten_operators_only(every_format):
    program = torch.export.load(every_format[1] / "model.pt2")
    targets = {node.target for node in program.graph.nodes if node.op == "call_function"}
    assert {target.namespace for target in targets} == {"aten"}
    with zipfile.ZipFile(every_format[1] / "model.ts.pt") as archive:
        assert not [name for name in archive.namelist() if name.endswith(".debug_pkl")]


@pytest.mark.parametrize(
    "format_", [name for name, format_ in FORMATS.items() if format_.torch_operators_only]
)
def test_custom_operator_is_refused_in_portable_formats(tmp_path, format_):
    class Special(MammothBackbone):
        def __init__(self):
            super().__init__()
            self.classifier = nn.Linear(3 * 8 * 6, 4)

        def forward(self, x, returnt=ReturnTypes.OUT):
            features = torch.ops.mammoth_test.double(x).flatten(1)
            return select_return(self.classifier(features), features, returnt)

    with torch.library._scoped_library("mammoth_test", "DEF") as library:
        library.define("double(Tensor x) -> Tensor")
        library.impl("double", lambda x: x * 2, "CompositeExplicitAutograd")
        with pytest.raises(ExportError, match=r"calls mammoth_test::double.*portable file"):
            export_bundle(Special(), tmp_path / "b", input_shape=SHAPE, formats=format_)
    assert list(tmp_path.iterdir()) == []
