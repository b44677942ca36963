"""python -m mammoth_compiled.export: export, update, and one-line errors."""

import importlib.util
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mammoth_compiled.checkpoint import FORMAT, VERSION, add_checksum
from mammoth_compiled.device import random_state
from mammoth_compiled.errors import ExportError
from mammoth_compiled.export import __main__ as command
from mammoth_compiled.export import load_bundle
from mammoth_compiled.export.checkpoint import load_backbone
from mammoth_compiled.export.images import read_images
from mammoth_compiled.models.networks.headed import HeadedNet
from mammoth_compiled.registry import backbones
from mammoth_compiled.types import DatasetInfo

DATA = {
    "name": "seq-digits",
    "input_shape": [1, 8, 8],
    "mean": [0.5],
    "std": [0.5],
    "num_classes": 4,
    "class_names": ["a", "b", "c", "d"],
    "tasks": [[0, 2], [2, 4]],
    "tasks_seen": 2,
}
ARGUMENTS = {"num_channels": 2, "input_size": 8, "in_channels": 1}

PLUGIN = """
import torch
from torch import nn
from mammoth_compiled import MammothBackbone, ReturnTypes, register_backbone

class Plugged(MammothBackbone):
    def __init__(self, width):
        super().__init__()
        self.head = nn.Linear(64, width)

    def forward(self, x, returnt=ReturnTypes.OUT):
        features = x.flatten(1)
        if returnt == "features":
            return features
        return self.head(features)

@register_backbone("test-plugged-net")
def plugged(width: int = 4):
    return Plugged(width)
"""


def checkpoint(path, net, name="cnn", arguments=ARGUMENTS, **changes):
    measured = "class_il task_il loss train_s compile_s eval_s train_images"
    parts = "scaler parameters tensors modules buffers values"
    content = {
        "net": net.state_dict(),
        "backbone": {"name": name, "arguments": arguments},
        "data": DATA,
        "model": {
            "name": "sgd",
            "state": {
                "optimizer": {"state": {}, "param_groups": []},
                "frozen": [],
                "left_out": [],
                **{part: {} for part in parts.split()},
            },
        },
        "random": random_state(),
        "args": {},
        "results": {"notes": {}, **{name: [] for name in measured.split()}},
        "tasks_done": 0,
        "compute": {
            "compile": False,
            "disabled_because": "",
            "full_batch": 0,
            "undeclared": [],
            "steps_with": {},
        },
    }
    stream = io.BytesIO()
    torch.save({"format": FORMAT, "version": VERSION, **content, **changes}, stream)
    (path / "last.pt").write_bytes(add_checksum(stream.getvalue()))
    return str(path / "last.pt")


def build():
    return backbones["cnn"].target(num_classes=4, **ARGUMENTS).eval()


def test_export_of_a_checkpoint(tmp_path, capsys):
    net = build()
    target = tmp_path / "out" / "bundle"
    assert command.main([checkpoint(tmp_path, net), str(target)]) == 0

    printed = capsys.readouterr()
    assert printed.err == ""
    lines = [line.split(maxsplit=1) for line in printed.out.splitlines()]
    assert {line[0] for line in lines} == {"bundle", "input", "outputs", "file", "verified"}
    assert str(target) in lines[0][1]
    assert lines[1][1] == "float32 [batch, 1, 8, 8]"
    assert lines[2][1] == "out [batch, 4], features [batch, 16]; returnt out, features, both"
    assert [line[1].split()[0] for line in lines if line[0] == "file"] == [
        *("model.onnx", "model.out.onnx", "model.features.onnx", "model.pt2")
    ]

    bundle = load_bundle(target)
    assert bundle.info.to_dict() == DATA
    images = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(
            bundle(images, "both"), net(images, "both"), rtol=1e-4, atol=1e-5
        )


def test_checkpoint_of_a_pretrained_backbone_needs_its_file_no_more(tmp_path):
    arguments = {"width": 6, "depth": 1, "patch_size": 4, "in_channels": 1, "input_size": (8, 8)}
    net = backbones["vit-tiny"].target(num_classes=4, **arguments).eval()
    given = {**arguments, "input_size": [8, 8], "pretrained": "gone.pt"}
    path = checkpoint(tmp_path, net, "vit-tiny", given)
    _, found, _ = load_backbone(path)
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(found.eval()(images), net(images))


def test_checkpoint_of_an_extended_backbone(tmp_path, capsys):
    net = HeadedNet(build(), torch.nn.Linear(16, 4))
    assert command.main([checkpoint(tmp_path, net), str(tmp_path / "bundle")]) == 2
    assert "model 'sgd' cannot be rebuilt without its data" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


def test_options_and_update(tmp_path, capsys):
    target = str(tmp_path / "bundle")
    first, second = build(), build()
    data = DATA | {"tasks_seen": 1}
    argv = [checkpoint(tmp_path, first, data=data), target, "--formats", "onnx,safetensors"]
    options = ["--classes", "masked", "--softmax", "--fold_preprocessing", "--variants", "fp16"]
    serving = ["--serve-layout", "triton", "--repository", str(tmp_path / "models")]
    assert command.main(["export", *argv, *options, *serving]) == 0
    assert (tmp_path / "models" / "cnn" / "config.pbtxt").is_file()
    assert "serving" in capsys.readouterr().out
    bundle = load_bundle(target)
    pixels = torch.randint(0, 256, (3, 8, 8, 1), dtype=torch.uint8)
    assert (bundle(pixels)[:, 2:] == 0).all()

    assert command.main(["update", target, checkpoint(tmp_path, second)]) == 0
    assert "model.fp16.onnx" in capsys.readouterr().out
    assert bundle.reload()
    assert bundle.manifest.name == "cnn"
    with torch.no_grad():
        expected = second((pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5).softmax(1)
    torch.testing.assert_close(bundle(pixels), expected, rtol=1e-4, atol=1e-5)
    half = load_bundle(target, precision="fp16")(pixels)
    torch.testing.assert_close(half, expected, rtol=1e-2, atol=1e-2)


def test_int8_calibration_from_a_file(tmp_path, capsys):
    target = str(tmp_path / "bundle")
    path = checkpoint(tmp_path, build())
    pixels = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), dtype=np.uint8)
    normalized = (pixels.transpose(0, 3, 1, 2) / np.float32(255) - np.float32(0.5)) / np.float32(
        0.5
    )
    for name, images in (("pixels", pixels), ("floats", normalized), ("turned", pixels.T)):
        np.save(tmp_path / f"{name}.npy", images)
    (tmp_path / "text.npy").write_text("no array")
    argv = ["--formats", "onnx", "--variants", "int8"]
    assert command.main([path, target, *argv]) == 2
    assert "or with --calibration FILE.npy" in capsys.readouterr().err
    assert command.main([path, target, *argv, "--calibration", str(tmp_path / "pixels.npy")]) == 0
    first = (tmp_path / "bundle" / "model.int8.onnx").read_bytes()

    assert command.main(["update", target, path]) == 2
    assert "or with --calibration FILE.npy" in capsys.readouterr().err
    update = ["update", target, path, "--calibration"]
    assert command.main([*update, str(tmp_path / "floats.npy")]) == 0
    assert "model.int8.onnx" in capsys.readouterr().out
    assert (
        tmp_path / "bundle" / "model.int8.onnx"
    ).read_bytes() == first  # calibrated on the same images
    for name, message in (
        ("turned", "must be uint8 [N, 8, 8, 1], not [1, 8, 8, 64]"),
        ("text", "cannot be read as a NumPy file of images"),
        ("missing", "cannot be read as a NumPy file of images"),
    ):
        assert command.main([*update, str(tmp_path / f"{name}.npy")]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(ExportError, match="the normalization of the training data is unknown"):
        read_images(tmp_path / "pixels.npy", DatasetInfo("", (1, 8, 8), num_classes=4))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["verify", "nothing"], "no bundle at nothing"),
        (["update", "nothing", "last.pt"], "no bundle at nothing"),
        (["last.pt", "bundle"], "no checkpoint at last.pt"),
    ],
)
def test_missing_files_raise_one_line(tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    assert command.main(argv) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_unknown_format_raises_one_line(tmp_path, capsys):
    argv = [checkpoint(tmp_path, build()), str(tmp_path / "bundle"), "--formats", "onnx,tflite"]
    assert command.main(argv) == 2
    assert "unknown format 'tflite'" in capsys.readouterr().err


def test_import_registers_user_backbones(tmp_path, capsys, monkeypatch):
    plugin = tmp_path / "plugged_for_export.py"
    plugin.write_text(PLUGIN)
    monkeypatch.delitem(sys.modules, plugin.stem, raising=False)
    weights = torch.nn.ModuleDict({"head": torch.nn.Linear(64, 4)})
    path = checkpoint(tmp_path, weights, "test-plugged-net", {"width": 4})

    assert command.main([path, str(tmp_path / "bundle")]) == 2
    assert "--import the file that registers" in capsys.readouterr().err
    assert command.main([path, str(tmp_path / "bundle"), "--import", str(plugin)]) == 0
    assert load_bundle(tmp_path / "bundle").supports == ("out", "features", "both")
    sys.modules.pop(plugin.stem)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arguments": ARGUMENTS | {"num_channels": 3}}, "do not fit backbone 'cnn'"),
        ({"arguments": {"depth": 3}}, "do not fit backbone 'cnn'"),
        ({"name": "cnm"}, "unknown backbone 'cnm'. Did you mean 'cnn'?"),
        ({"data": {"name": "seq-digits"}}, "lacks data.input_shape, data.mean"),
        ({"backbone": {"name": "cnn"}}, "lacks backbone.arguments"),
        ({"data": DATA | {"num_classes": 5}}, "do not fit backbone 'cnn'"),
        ({"data": DATA | {"input_shape": [3, 8, 8]}}, "returns no logits"),
    ],
)
def test_unusable_checkpoint_raises_one_line(tmp_path, capsys, changes, message):
    path = checkpoint(tmp_path, build(), **changes)
    assert command.main([path, str(tmp_path / "bundle")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert message in printed.err
    assert not (tmp_path / "bundle").exists()


def test_failed_parity_raises_one_line(tmp_path, capsys, monkeypatch):
    def differs(*args, **kwargs):
        raise ExportError("the export differs from eager:\n  output 'out'")

    monkeypatch.setattr("mammoth_compiled.export.export.export_bundle", differs)
    assert command.main([checkpoint(tmp_path, build()), str(tmp_path / "bundle")]) == 2
    assert capsys.readouterr().err == "error: the export differs from eager: output 'out'\n"


def test_importing_under_another_name_raises():
    spec = importlib.util.spec_from_file_location(
        "export", Path(command.__file__).parent / "__init__.py"
    )
    with pytest.raises(ImportError, match=r"import mammoth_compiled\.export, not export"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_module_runs_as_a_script(tmp_path):
    program = (
        "import runpy, sys, mammoth_compiled.export\n"
        "late = {'onnx', 'onnxscript', 'onnxruntime'} & set(sys.modules)\n"
        "assert not late, f'{late} are imported before they are needed'\n"
        "sys.argv = ['export', 'missing.pt', 'bundle']\n"
        "runpy.run_module('mammoth_compiled.export', run_name='__main__')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: no checkpoint at missing.pt")
    assert result.stderr.count("\n") == 1
