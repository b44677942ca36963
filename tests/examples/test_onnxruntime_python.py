"""The Python example matches eager mode, and needs neither torch nor this package."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mammoth_compiled.backbones.base import MammothBackbone, select_return
from mammoth_compiled.export import export_bundle
from mammoth_compiled.types import DatasetInfo, ReturnTypes

INFO = DatasetInfo(
    name="seq-shapes",
    input_shape=(1, 6, 8),
    mean=(0.5,),
    std=(0.25,),
    num_classes=4,
    class_names=("circle", "square", "cross", "star"),
    tasks=((0, 2), (2, 4)),
    tasks_seen=1,
)
BLOCKED = """
import runpy, sys
sys.modules.update({"torch": None, "onnx": None, "mammoth_compiled": None})
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class SmallNet(MammothBackbone):
    """One linear layer on gray images."""

    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(48, 4)

    def forward(self, x, returnt=ReturnTypes.OUT):
        features = x.flatten(1)
        return select_return(self.classifier(features), features, returnt)


@pytest.fixture(scope="module")
def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SmallNet().eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory, net):
    return export_bundle(net, tmp_path_factory.mktemp("b") / "bundle", info=INFO, formats="onnx")


@pytest.fixture
def bundle(exported, tmp_path):
    """A copy of the bundle, which the test may change."""
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


@pytest.fixture
def example(request):
    """Runs the example in a Python where torch, onnx and mammoth_compiled cannot be imported."""
    script = request.config.rootpath / "examples" / "onnxruntime_python.py"

    def run(*words):
        command = [sys.executable, "-c", BLOCKED, str(script), *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)

    return run


@pytest.fixture
def image_files(tmp_path):
    """Three files of one image each, and their pixels [3, H, W]."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 6, 8), dtype=np.uint8)
    files = [tmp_path / f"{name}.png" for name in ("a", "long-name", "c")]
    for file, image in zip(files, pixels, strict=True):
        Image.fromarray(image).save(file)
    return files, pixels


def test_classes_are_printed_in_the_order_of_eager_mode(example, bundle, net, image_files):
    files, pixels = image_files
    result = example(bundle, *files, "--top", 2)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    head, *lines = result.stdout.splitlines()
    assert head.split() == ["image", "1.", "2."]
    with torch.no_grad():
        logits = net((torch.from_numpy(pixels)[:, None].float() / 255 - 0.5) / 0.25)
    shares = logits[:, :2].softmax(1)  # only the first two classes were seen
    for line, file, row in zip(lines, files, shares, strict=True):
        order = row.argsort(descending=True).tolist()
        cells = [f"{INFO.class_names[k]} {row[k].item():.1%}" for k in order]
        assert re.split(r" {2,}", line) == [file.name, *cells]


def test_images_are_resized_and_unnamed_classes_numbered(example, bundle, tmp_path):
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["classes"] |= {"names": [], "seen": [], "ids": [7, 5, 9, 3]}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    Image.new("RGB", (50, 31), "white").save(tmp_path / "photo.jpg")
    result = example(bundle, tmp_path / "photo.jpg")
    assert result.returncode == 0, result.stderr
    assert len(re.findall(r"class [7593] \d+\.\d%", result.stdout)) == 3


def test_errors_are_one_line(example, bundle, tmp_path, image_files):
    (image, *_), _ = image_files

    def error(*words):
        result = example(*words)
        assert result.returncode == 2
        assert result.stdout == ""
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
        return result.stderr

    assert "no bundle at" in error(tmp_path / "absent", image)
    assert "cannot be read" in error(bundle, tmp_path / "absent.png")
    assert "cannot be read" in error(bundle, bundle / "manifest.json")
    assert "has no int8 model; it has: fp32" in error(bundle, image, "--precision", "int8")
    manifest = json.loads((bundle / "manifest.json").read_text())
    model = bundle / "model.out.onnx"
    good = model.read_bytes()
    model.write_bytes(good[:-1])
    assert "not the file that was exported" in error(bundle, image)
    model.unlink()
    assert "cannot be read" in error(bundle, image)
    for changed, message in (
        ({"schema": 2}, "has schema 2; this program reads 1"),
        ({"schema": "x"}, "is damaged"),
        ({"preprocessing": None}, "does not say how pixels are preprocessed"),
    ):
        (bundle / "manifest.json").write_text(json.dumps(manifest | changed))
        assert message in error(bundle, image)
    (bundle / "manifest.json").write_text('{"schema": 1}')
    assert "it lacks contract, preprocessing, classes, files" in error(bundle, image)
    (bundle / "manifest.json").write_text("[")
    assert "is damaged" in error(bundle, image)
