"""CUB-200-2011: the published split, crops of stored images."""

import pytest
import torch
from contract_cases import DatasetCase
from dataset_files import build_dataset, write_image
from torchvision.transforms import functional as TF

from mammoth_compiled.datasets import cub200
from mammoth_compiled.datasets.cub200 import SequentialCUB200
from mammoth_compiled.datasets.download import archive_hint


def write_files(root, monkeypatch):
    """Writes 2 tasks of 20 classes: 3 of 4 images of each are for training."""
    monkeypatch.setattr(SequentialCUB200, "N_TASKS", 2)
    folder = root / "CUB_200_2011"
    lists = {"images": [], "image_class_labels": [], "train_test_split": [], "classes": []}
    number = 0
    for k in range(40):
        name = f"{k + 1:03}.Bird_{k}"
        lists["classes"].append(f"{k + 1} {name}")
        for i in range(4):
            number += 1
            write_image(folder / "images" / name / f"{i}.jpg", k)
            lists["images"].append(f"{number} {name}/{i}.jpg")
            lists["image_class_labels"].append(f"{number} {k + 1}")
            lists["train_test_split"].append(f"{number} {int(i != 1)}")
    for name, rows in lists.items():
        (folder / f"{name}.txt").write_text("\n".join(rows) + "\n")


CASES = {
    "seq-cub200": DatasetCase(
        num_tasks=2,
        classes_per_task=20,
        input_shape=(3, 224, 224),
        stored_size=(256, 256),
        train_per_class=3,
        test_per_class=1,
        write_files=write_files,
        needs_files=True,
        hint=archive_hint(cub200.ARCHIVE.url, cub200.ARCHIVE.md5),
    )
}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MAMMOTH_CACHE_DIR", str(tmp_path / "cache"))


def test_published_tasks():
    assert (SequentialCUB200.N_TASKS, SequentialCUB200.N_CLASSES_PER_TASK) == (10, 20)


def test_split_and_names_are_those_of_the_lists(tmp_path, monkeypatch):
    write_files(tmp_path, monkeypatch)
    dataset = build_dataset("seq-cub200", tmp_path)
    train, test = dataset.list_files()
    assert [name.split("/")[1] for name in train.files[:3]] == ["0.jpg", "2.jpg", "3.jpg"]
    assert {name.split("/")[1] for name in test.files} == {"1.jpg"}
    assert dataset.info().class_names[1] == "002.Bird_1"


def test_normalization_crops_stored_images():
    image = torch.rand(3, 256, 256)
    normalized = SequentialCUB200.get_normalization_transform()(image)
    expected = TF.normalize(image[:, 16:240, 16:240], SequentialCUB200.MEAN, SequentialCUB200.STD)
    assert torch.equal(normalized, expected)
