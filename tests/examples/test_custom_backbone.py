"""The custom backbone example runs as a script, from contract check to bundle."""

import re

import pytest
import torch

from mammoth_compiled import load_bundle

NAMES = ["cnn-small", "cnn-large", "resnet", "attention", "sequential"]


@pytest.fixture
def example(request, run_python):
    """Returns a function that runs the example in debug mode."""
    path = request.config.rootpath / "examples" / "custom_backbone.py"
    return lambda *words: run_python(path, "--debug", "--compile", "off", *words)


def test_example_checks_trains_and_exports(example, tmp_path):
    result = example("--backbone", "custom-resnet", "--width", 4, "--export", tmp_path / "bundle")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    output = result.stdout
    for name in NAMES:
        assert re.search(rf"custom-{name} +logits \(4, 10\), features \(4, \d+\)", output)
        assert re.search(rf"custom-{name} +[\d,]+ +\d+\.\d\d$", output, re.MULTILINE)
    assert "60,362" in output  # CustomCNN with 32 channels
    assert re.search(r"CustomResNet, [\d,]+ parameters", output)
    assert output.count("Accuracy after task") == 5
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle(torch.rand(3, 3, 32, 32), returnt="features").shape == (3, 32)
    assert bundle.class_names[1] == "Trouser"
    assert bundle.classes_seen == tuple(range(10))


def test_wrong_option_has_no_traceback(example):
    result = example("--width", 4)
    assert result.returncode == 2
    assert "error: unknown argument 'width'" in result.stderr
    assert "Traceback" not in result.stderr
