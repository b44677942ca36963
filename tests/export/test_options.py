"""Options that change the graph: preprocessing, reduced and masked heads, softmax, stage maps."""

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import torch
from torch.nn import functional as F

import mammoth_compiled.export
from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.errors import ExportError
from mammoth_compiled.export import export_bundle, load_bundle, update_bundle
from mammoth_compiled.export.bundle.manifest_reader import read_manifest
from mammoth_compiled.types import DatasetInfo, ReturnTypes

SHAPE = (3, 8, 6)
LOWEST = torch.finfo(torch.float32).min
# All runnable formats that need no compiler.
FORMATS = ("onnx", "pt2", "torchscript")
SCHEMA = json.loads(
    (Path(mammoth_compiled.export.__file__).parent / "manifest.schema.json").read_text()
)


class Maps(MammothBackbone):
    """Has two stages, and returns their maps for FULL."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 4, 3)
        self.second = torch.nn.Conv2d(4, 5, 3, stride=2)
        self.classifier = torch.nn.Linear(5, 4)

    def forward(self, x, returnt=ReturnTypes.OUT):
        maps = [F.relu(self.first(x))]
        maps.append(F.relu(self.second(maps[0])))
        features = maps[-1].mean((2, 3))
        out = self.classifier(features)
        answers = {"out": out, "features": features, "both": (out, features), "full": (out, maps)}
        return answers[returnt]


@pytest.fixture
def info(small_info):
    # The first task has the higher class ids.
    return replace(small_info, tasks=((2, 4), (0, 2)), tasks_seen=1)


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def manifest_of(path):
    content = json.loads((path / "manifest.json").read_text())
    jsonschema.validate(content, SCHEMA, jsonschema.Draft202012Validator)
    return content


def test_folded_preprocessing_and_softmax(tmp_path, info):
    net = Maps().eval()
    images = torch.rand(4, *SHAPE)
    path = export_bundle(
        net,
        tmp_path / "b",
        info=info,
        samples=images,
        formats=FORMATS,
        fold_preprocessing=True,
        softmax=True,
    )
    content = manifest_of(path)
    assert content["contract"]["input"] == {
        "name": "input",
        "dtype": "uint8",
        "shape": ["batch", 8, 6, 3],
        "layout": "NHWC",
    }
    assert content["preprocessing"]["folded"] is True
    assert content["classes"]["softmax"] is True
    pixels = torch.randint(0, 256, (5, 8, 6, 3), dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (info.mean, info.std))
    normal = (pixels.permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.no_grad():
        out, features = net(normal, "both")
    for runtime in FORMATS:
        bundle = load_bundle(path, runtime=runtime)
        close(bundle(pixels, "both"), (out.softmax(1), features))
        assert torch.equal(bundle.preprocess(pixels.permute(0, 3, 1, 2)), pixels)
        with pytest.raises(ExportError, match=r"x must be uint8 \[B, 8, 6, 3\], but is float32"):
            bundle(normal)


def test_masked_head_can_be_updated_and_reduced_head_cannot(tmp_path, info):
    net, other = Maps().eval(), Maps().eval()
    images = torch.randn(3, *SHAPE)
    masked = export_bundle(net, tmp_path / "m", info=info, formats=FORMATS, classes="masked")
    content = manifest_of(masked)
    assert content["classes"]["head"] == "masked"
    assert content["classes"]["ids"] == [0, 1, 2, 3]
    assert content["classes"]["seen"] == [2, 3]
    bundles = [load_bundle(masked, runtime=runtime) for runtime in FORMATS]
    for bundle in bundles:
        out = bundle(images)
        assert (out[:, :2] == LOWEST).all()
        close(out[:, 2:], net(images).detach()[:, 2:])
    update_bundle(masked, other, info=replace(info, tasks_seen=2))
    for bundle in bundles:
        assert bundle.reload()
        close(bundle(images), other(images).detach())

    reduced = export_bundle(net, tmp_path / "t", info=info, formats="onnx", classes="seen")
    content = manifest_of(reduced)
    assert content["classes"]["ids"] == [2, 3]
    assert content["classes"]["names"] == ["blue", "grün"]
    bundle = load_bundle(reduced)
    assert bundle.class_names == ("blue", "grün")
    close(bundle(images), net(images).detach()[:, [2, 3]])
    update_bundle(reduced, other, info=info)
    assert bundle.reload()
    close(bundle(images), other(images).detach()[:, [2, 3]])
    with pytest.raises(ExportError, match=r"reduced to the classes \[2, 3\].*masked") as caught:
        update_bundle(reduced, other, info=replace(info, tasks_seen=2))
    assert caught.value.code == "contract"
    with pytest.raises(ExportError, match="the classes seen now are unknown"):
        update_bundle(reduced, other)


def test_stage_maps(tmp_path, small_net):
    net = Maps().eval()
    path = export_bundle(net, tmp_path / "b", input_shape=SHAPE, formats=FORMATS, full=True)
    content = manifest_of(path)
    assert content["contract"]["returnt"] == ["out", "features", "both", "full"]
    assert content["contract"]["outputs"][2:] == [
        {"name": "full_0", "dtype": "float32", "shape": ["batch", 4, 6, 4]},
        {"name": "full_1", "dtype": "float32", "shape": ["batch", 5, 2, 1]},
    ]
    images = torch.randn(3, *SHAPE)
    with torch.no_grad():
        logits, maps = net(images, "full")
    for runtime in FORMATS:
        for returnt in (None, "full"):
            out, actual = load_bundle(path, runtime=runtime, returnt=returnt)(images, "full")
            close(out, logits)
            assert isinstance(actual, list)
            close(actual, maps)
    assert len(read_manifest(path).golden_outputs) == 4
    with pytest.raises(ExportError, match="SmallNet does not answer returnt='full'"):
        export_bundle(small_net, tmp_path / "c", input_shape=SHAPE, full=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fold_preprocessing": True}, "needs the mean and standard deviation"),
        ({"classes": "seen"}, "classes='seen' needs to know which classes were seen"),
        ({"classes": "masked"}, "classes='masked' needs to know"),
        ({"classes": "some"}, "unknown classes='some'; valid: 'all', 'seen', 'masked'"),
        ({"device": "cuda", "formats": "aoti"}, "there is no device 'cuda'"),
        ({"variants": "fp16,int4"}, "unknown variant 'int4'; valid: 'fp16', 'int8'"),
        ({"variants": ["fp16"], "formats": "pt2"}, "'fp16' is made from ONNX: add onnx"),
    ],
)
def test_inconsistent_options_raise(tmp_path, small_net, require_format, arguments, message):
    if arguments.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    if arguments.get("formats") == "aoti":
        require_format("aoti")
    with pytest.raises(ExportError, match=message):
        export_bundle(small_net, tmp_path / "b", input_shape=SHAPE, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_variants_and_accuracy_are_in_the_manifest(tmp_path, small_net, small_info):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(64, *SHAPE, generator=generator)
    net = small_net.eval()
    labels = net(images).detach()[:, :2].argmax(1)
    path = export_bundle(
        net,
        tmp_path / "b",
        info=small_info,
        formats="onnx",
        variants=("fp16", "int8"),
        calibration=lambda: images,
        test_set=lambda: (images, labels),
    )
    files = {file["path"]: file for file in manifest_of(path)["files"]}
    assert files["model.onnx"]["accuracy"] == {"class_il": 1.0, "images": 64}
    for kind in ("fp16", "int8"):
        file = files[f"model.{kind}.onnx"]
        assert (file["precision"], file["accuracy"]["images"]) == (kind, 64)
        assert file["accuracy"]["class_il"] > 0.9
        bundle = load_bundle(path, precision=kind)
        torch.testing.assert_close(bundle(images), net(images).detach(), rtol=0.1, atol=0.1)
    with pytest.raises(ExportError, match="needs images to measure the ranges"):
        update_bundle(path, net)
    update_bundle(path, net, calibration=images, test_set=(images, labels))
    assert load_bundle(path, precision="int8").manifest.file("model.int8.onnx").accuracy
    assert isinstance(load_bundle(path).info, DatasetInfo)


@pytest.mark.slow
def test_all_options_with_aoti(tmp_path, info, require_format):
    require_format("aoti")
    net, other = Maps().eval(), Maps().eval()
    path = export_bundle(
        net,
        tmp_path / "b",
        info=info,
        formats="aoti",
        fold_preprocessing=True,
        classes="masked",
        softmax=True,
        full=True,
        test_set=(torch.rand(8, *SHAPE), torch.arange(8) % 4),
    )
    pixels = torch.randint(0, 256, (5, 8, 6, 3), dtype=torch.uint8)
    bundle = load_bundle(path, runtime="aoti")
    assert bundle.supports == ("out", "features", "both", "full")
    assert (bundle(pixels)[:, :2] == 0).all()
    update_bundle(path, other, info=replace(info, tasks_seen=2))
    assert bundle.reload()
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (info.mean, info.std))
    with torch.no_grad():
        logits, maps = other((pixels.permute(0, 3, 1, 2) / 255 - mean) / std, "full")
    out, actual = bundle(pixels, "full")
    close(out, logits.softmax(1))
    close(actual, maps)
