"""Runs that cannot be: one line that says what would work, before anything is trained."""

import sys

import pytest
from PIL import Image

SGD = ("--model", "sgd", "--compile", "off")
MINI = (*SGD, "--dataset", "seq-fmnist-mini")


@pytest.fixture(autouse=True)
def _no_training(monkeypatch):
    def train(*_, **__):
        raise AssertionError("a run that cannot be was trained")

    monkeypatch.setattr("mammoth_compiled.training.train", train)


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        # No buffer size and no data are asked for: the method cannot run on domains at all.
        (
            ("--model", "icarl", "--dataset", "perm-mnist"),
            ("model 'icarl' supports class-il, task-il", "Models for domain-il: ", " er,"),
        ),
        (
            ("--model", "xder", "--dataset", "seq-fmnist-mini", "--blurry", 0.1),
            ("is general-continual because of --blurry", "Models for general-continual: "),
        ),
        (
            ("--model", "er", "--dataset", "core50"),
            ("--buffer_size is required for model 'er' on 'core50'", "Buffer capacity"),
        ),
        (
            (*MINI, "--custom_class_order", "0-6,8,9"),
            ("--custom_class_order lacks class 7: list each of the classes 0 to 9 once",),
        ),
        ((*MINI, "--n_tasks", 11), ("--n_tasks 11 does not fit 10 classes", "give 1 to 10")),
        ((*MINI, "--classes_per_task", 4, 4), ("adds up to 8 classes, but the dataset has 10",)),
        ((*MINI, "--base_classes", 12), ("--base_classes 12 exceeds the 10 classes",)),
        (
            (*SGD, "--dataset", "core50", "--n_tasks", 3),
            ("dataset 'core50' is domain-il", "whose number cannot be chosen"),
        ),
        (
            (*MINI, "--backbone", "tv:resnet81"),
            ("torchvision has no network 'resnet81'", "Did you mean 'resnet18'"),
        ),
    ],
)
def test_refused(error_of, words, messages):
    error = error_of(*words, message=messages[0])
    assert all(message in error for message in messages), error


def test_unknown_network_of_timm(error_of):
    pytest.importorskip("timm")
    message = "timm has no network 'vit_tinny_patch16_224'. Did you mean 'vit_tiny_patch16_224'"
    error_of(*MINI, "--backbone", "timm:vit_tinny_patch16_224", message=message)


@pytest.mark.parametrize("name", ["timm:resnet18", "timm:anything"])
def test_timm_is_not_installed(error_of, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "timm", None)
    error = error_of(*MINI, "--backbone", name, message="backbones timm:NAME need timm")
    assert "pip install timm" in error
    assert "tv:NAME" in error


@pytest.mark.parametrize("folders", [(), ("cats",), ("cats", "empty")])
def test_folder_with_fewer_than_two_classes(error_of, tmp_path, folders):
    root = tmp_path / "photos"
    for name in ("", *folders):
        (root / name).mkdir(parents=True, exist_ok=True)
    if folders:
        Image.new("RGB", (8, 8)).save(root / "cats" / "1.png")
    error = error_of(
        *(*SGD, "--dataset", "seq-folder", "--data_dir", root),
        message=f"seq-folder: {root} has images in {1 if folders else 0} subfolder",
    )
    assert "needs at least two classes: make one subfolder per class" in error
