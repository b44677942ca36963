"""ImageNet-R: its fixed random split, and published splits in folders."""

import pytest
from contract_cases import DatasetCase
from dataset_files import build_dataset, write_image

from mammoth_compiled.datasets import imagenet_r
from mammoth_compiled.datasets.download import archive_hint
from mammoth_compiled.datasets.imagenet_r import SequentialImageNetR


def write_files(root, monkeypatch, folders=("",), num_classes=40, per_class=5):
    """Writes 2 tasks of 20 classes in the layout of the archive."""
    monkeypatch.setattr(SequentialImageNetR, "N_TASKS", num_classes // 20)
    for folder in folders:
        for k in range(num_classes):
            for i in range(per_class):
                write_image(root / "imagenet-r" / folder / f"n{k:08}" / f"art_{i}.jpg", k)
    (root / "imagenet-r" / "README.txt").write_text("n00000000 a\n")


CASES = {
    "seq-imagenet-r": DatasetCase(
        num_tasks=2,
        classes_per_task=20,
        input_shape=(3, 224, 224),
        stored_size=(256, 256),
        train_per_class=4,
        test_per_class=1,
        is_augmented=False,  # RandomResizedCrop instead of RandomCrop
        write_files=write_files,
        needs_files=True,
        hint=archive_hint(imagenet_r.ARCHIVE.url, imagenet_r.ARCHIVE.md5),
    )
}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MAMMOTH_CACHE_DIR", str(tmp_path / "cache"))


def test_published_tasks():
    assert (SequentialImageNetR.N_TASKS, SequentialImageNetR.N_CLASSES_PER_TASK) == (10, 20)


def test_the_split_does_not_depend_on_the_seed_of_the_run(tmp_path, monkeypatch):
    write_files(tmp_path, monkeypatch)
    splits = [build_dataset("seq-imagenet-r", tmp_path, seed=s).list_files() for s in (0, 1)]
    assert splits[0][1].files == splits[1][1].files


def test_published_splits_are_used(tmp_path, monkeypatch):
    write_files(tmp_path, monkeypatch, ("train", "test"), num_classes=20, per_class=1)
    train, test = build_dataset("seq-imagenet-r", tmp_path).list_files()
    assert (train.root.name, test.root.name) == ("train", "test")
    assert len(train.files) == len(test.files) == 20
