"""seq-folder: layouts, splits, errors, class names, training on any image."""

import os

import numpy as np
import pytest
import torch
from contract_cases import DatasetCase
from dataset_files import build_dataset, write_image
from PIL import Image

from mammoth_compiled import export_bundle, load_runner, train
from mammoth_compiled.errors import CheckpointError, ConfigError, DataError
from mammoth_compiled.export.bundle.manifest_reader import read_manifest

NAMES = ["ant", "bee", "cat", "dog"]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MAMMOTH_CACHE_DIR", str(tmp_path / "cache"))


def write_tree(root, per_class, names=NAMES, suffix="png"):
    for k, name in enumerate(names):
        for i in range(per_class):
            write_image(root / name / f"{i:02}.{suffix}", k)


def write_files(root, monkeypatch):
    write_tree(root / "train", 12)
    write_tree(root / "test", 4, suffix="jpg")


CASES = {
    "seq-folder": DatasetCase(
        num_tasks=2,
        classes_per_task=2,
        input_shape=(3, 16, 16),
        train_per_class=12,
        test_per_class=4,
        write_files=write_files,
        arguments={"image_size": 16},
        needs_files=True,
        is_downloaded=False,
    )
}


def counts(loader):
    return np.bincount(loader.dataset.targets).tolist()


def test_one_tree_is_split_at_random(tmp_path):
    write_tree(tmp_path / "photos", 10)

    def rows(**args):
        dataset = build_dataset("seq-folder", tmp_path / "photos", n_tasks=1, **args)
        loader, test_loader = dataset.meta_get_data_loaders()
        return dataset, loader, test_loader

    dataset, loader, test_loader = rows()
    assert (counts(loader), counts(test_loader)) == ([8] * 4, [2] * 4)
    _, train_files, test_files = dataset._split
    assert not {*train_files.files} & {*test_files.files}
    assert rows()[0]._split[2].files == test_files.files
    assert rows(split_seed=1)[0]._split[2].files != test_files.files
    assert counts(rows(test_fraction=0.5)[2]) == [5] * 4


@pytest.mark.parametrize("folder", ["test", "val"])
def test_two_trees_are_used_as_they_are(tmp_path, folder):
    write_tree(tmp_path / "train", 5)
    write_tree(tmp_path / folder, 3)
    loader, test_loader = build_dataset("seq-folder", tmp_path).meta_get_data_loaders()
    assert (counts(loader), counts(test_loader)) == ([5, 5], [3, 3])


def test_a_training_tree_alone_is_split(tmp_path):
    write_tree(tmp_path / "train", 5)
    loader, test_loader = build_dataset("seq-folder", tmp_path).meta_get_data_loaders()
    assert (counts(loader), counts(test_loader)) == ([4, 4], [1, 1])


def test_nested_and_hidden_files_and_other_formats(tmp_path):
    write_tree(tmp_path, 3)
    write_image(tmp_path / "ant" / "deep" / "er" / "x.JPG", 0)
    (tmp_path / "ant" / "notes.txt").write_text("no image")
    (tmp_path / "ant" / ".hidden.png").write_bytes(b"")
    (tmp_path / ".git").mkdir()
    dataset = build_dataset("seq-folder", tmp_path)
    _, train_files, test_files = dataset._split
    assert len(train_files.files) + len(test_files.files) == 13


def test_links_are_followed_but_not_around(tmp_path):
    write_tree(tmp_path / "elsewhere", 3, ["ant"])
    write_tree(tmp_path / "photos", 3, ["bee"])
    (tmp_path / "photos" / "ant").symlink_to(tmp_path / "elsewhere" / "ant")
    (tmp_path / "photos" / "bee" / "again").symlink_to(tmp_path / "photos" / "bee")
    dataset = build_dataset("seq-folder", tmp_path / "photos")
    _, train_files, test_files = dataset._split
    assert dataset.CLASS_NAMES == ("ant", "bee")
    assert len(train_files.files) + len(test_files.files) == 6


def test_names_that_no_file_could_contain_are_refused(tmp_path):
    write_tree(tmp_path, 3)
    os.mkdir(os.fsencode(tmp_path) + b"/\xff")
    with pytest.raises(DataError, match=r"has a subfolder named '.udcff': rename it to UTF-8"):
        build_dataset("seq-folder", tmp_path)


def test_folders_without_images_are_no_classes(tmp_path, capsys):
    write_tree(tmp_path, 3)
    (tmp_path / "checkpoints").mkdir()
    assert build_dataset("seq-folder", tmp_path).N_CLASSES == 4
    assert f"data: checkpoints in {tmp_path}: no images, hence no class" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("num_classes", "tasks"), [(2, [2]), (3, [3]), (5, [3, 2]), (11, [3, 2, 2, 2, 2])]
)
def test_default_tasks_have_at_least_two_classes(tmp_path, num_classes, tasks):
    write_tree(tmp_path, 2, [f"class {k:02}" for k in range(num_classes)])
    dataset = build_dataset("seq-folder", tmp_path)
    assert np.diff([0, *(dataset.get_offsets(t)[1] for t in range(len(tasks)))]).tolist() == tasks


REFUSED = {
    "no folder": (lambda root: None, "is not a directory: give --data_dir DIR"),
    "empty": (lambda root: root.mkdir(), "has images in 0 subfolders, but"),
    "one class": (lambda root: write_tree(root, 3, ["ant"]), r"in 1 subfolder \(ant\), but .* two"),
    "one image": (
        lambda root: (write_tree(root, 3), write_image(root / "eel" / "0.png", 4)),
        "no training image of class 'eel' is left",
    ),
    "unknown test class": (
        lambda root: (write_tree(root / "train", 2), write_tree(root / "test", 2, [*NAMES, "eel"])),
        "train has no images of class eel: both folders need all classes",
    ),
    "missing test class": (
        lambda root: (write_tree(root / "train", 2), write_tree(root / "test", 2, NAMES[:3])),
        "test has no images of class dog",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unusable_folders_are_refused_before_training(tmp_path, name):
    write, message = REFUSED[name]
    write(tmp_path / "photos")
    with pytest.raises(DataError, match=f"seq-folder: .*{message}"):
        load_runner("sgd", "seq-folder", {"data_dir": str(tmp_path / "photos")})


def test_unusable_arguments_are_refused(tmp_path):
    write_tree(tmp_path, 3)
    with pytest.raises(ConfigError, match="seq-folder reads your images from --data_dir DIR"):
        load_runner("sgd", "seq-folder", {})
    for fraction in (0, 1, 2):
        with pytest.raises(ConfigError, match="--test_fraction must be above 0 and below 1"):
            build_dataset("seq-folder", tmp_path, test_fraction=fraction)
    with pytest.raises(ConfigError, match="--n_tasks 5 does not fit 4 classes"):
        build_dataset("seq-folder", tmp_path, n_tasks=5)


def test_corrupt_files_are_named(tmp_path):
    write_tree(tmp_path, 3)
    (tmp_path / "bee" / "01.png").write_bytes(b"not an image")
    cut = (tmp_path / "cat" / "02.png").read_bytes()[:60]
    (tmp_path / "cat" / "02.png").write_bytes(cut)
    args = {"data_dir": str(tmp_path), "split_seed": 3, "test_fraction": 0.1}
    with pytest.raises(DataError, match=r"cannot be read: .*(01|02)\.png .*Replace or remove"):
        build_dataset("seq-folder", tmp_path, **args).meta_get_data_loaders()


def test_the_bundle_has_the_class_names_in_the_order_of_learning(tmp_path):
    write_tree(tmp_path / "photos", 4)
    args = {"data_dir": str(tmp_path / "photos"), "image_size": 8, "backbone": "mnistmlp"}
    args |= {"hidden_size": 4, "n_epochs": 1, "batch_size": 4, "compile": "off", "seed": 0}
    args |= {"custom_class_order": ["2,0,3,1"], "n_tasks": 2}
    model, dataset = load_runner("sgd", "seq-folder", args)

    train(model, dataset)
    path = export_bundle(model, tmp_path / "bundle", formats="safetensors")
    assert read_manifest(path).info.class_names == ("cat", "ant", "dog", "bee")


def test_images_of_any_size_and_mode(tmp_path):
    def save(k, image, name):
        (tmp_path / f"class {k}").mkdir(exist_ok=True)
        image.save(tmp_path / f"class {k}" / name)

    for i in range(2):
        size = (5 + 40 * i, 50 - 7 * i)
        for k, mode in enumerate(["L", "RGB", "RGBA", "P", "LA"]):
            save(k, Image.new("L", size, 200).convert(mode), f"{i}.png")
        save(5, Image.new("CMYK", size, (55, 55, 55, 0)), f"{i}.tif")
        save(6, Image.fromarray(np.full(size, 51_400, np.uint16)), f"{i}.png")
        save(7, Image.new("1", size, 1), f"{i}.png")
    dataset = build_dataset("seq-folder", tmp_path, test_fraction=0.5, n_tasks=1, image_size=8)
    loader, _ = dataset.meta_get_data_loaders()
    images, targets = loader.dataset.data, loader.dataset.targets
    assert images.shape == (8, 8, 8, 3)
    assert (images[targets < 7] == 200).all()
    assert (images[targets == 7] == 255).all()


def test_resume_refuses_another_split(tmp_path):
    write_tree(tmp_path / "photos", 4)
    args = {"data_dir": str(tmp_path / "photos"), "image_size": 8, "backbone": "mnistmlp"}
    args |= {"n_epochs": 1, "compile": "off", "checkpoint_path": str(tmp_path / "saved")}
    train(*load_runner("sgd", "seq-folder", {**args, "savecheck": "last"}))
    (path,) = (tmp_path / "saved").glob("*.pt")
    changed = {**args, "split_seed": 1, "loadcheck": str(path)}
    with pytest.raises(
        CheckpointError, match="from split_seed 0, this run has 1: use --split_seed"
    ):
        train(*load_runner("sgd", "seq-folder", changed))


def test_replay_augments_at_the_size_of_the_images(tmp_path):
    write_tree(tmp_path, 4)
    dataset = build_dataset("seq-folder", tmp_path, image_size=24)
    assert dataset.get_transform()(torch.rand(3, 24, 24)).shape == (3, 24, 24)
