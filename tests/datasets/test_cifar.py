"""CIFAR-10 and CIFAR-100: class names and damaged files."""

import hashlib
import pickle

import numpy as np
import pytest
from contract_cases import DatasetCase
from dataset_files import (
    TEST_PER_CLASS,
    TRAIN_PER_CLASS,
    build_dataset,
    disable_network,
    labels_and_values,
)
from torchvision.datasets import CIFAR10, CIFAR100

from mammoth_compiled.errors import DataError


def write_cifar(source, num_classes, root, monkeypatch):
    """Writes pickled batches as in the CIFAR archives, and replaces the published MD5 sums."""
    folder = root / source.base_folder
    folder.mkdir(parents=True)
    key = "labels" if num_classes == 10 else "fine_labels"

    def write(name, content):
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return [name, hashlib.md5(data).hexdigest()]

    def batch(labels, values):
        pixels = np.broadcast_to(values[:, None], (len(values), 3072))
        return {"data": np.ascontiguousarray(pixels), key: labels.tolist(), "batch_label": "x"}

    lists = {}
    for name, files, per_class in (
        ("train_list", [f[0] for f in source.train_list], TRAIN_PER_CLASS),
        ("test_list", [f[0] for f in source.test_list], TEST_PER_CLASS),
    ):
        labels, values = labels_and_values(per_class, num_classes)
        parts = zip(
            files,
            np.array_split(labels, len(files)),
            np.array_split(values, len(files)),
            strict=True,
        )
        lists[name] = [write(file, batch(*part)) for file, *part in parts]
    names = [f"class {k}" for k in range(num_classes)]
    filename, md5 = write(source.meta["filename"], {source.meta["key"]: names})
    monkeypatch.setattr(source, "meta", {**source.meta, "filename": filename, "md5": md5})
    for name, files in lists.items():
        monkeypatch.setattr(source, name, files)


def write_cifar10(root, monkeypatch):
    write_cifar(CIFAR10, 10, root, monkeypatch)


def write_cifar100(root, monkeypatch):
    write_cifar(CIFAR100, 100, root, monkeypatch)


CASES = {
    "seq-cifar10": DatasetCase(
        num_tasks=5,
        classes_per_task=2,
        input_shape=(3, 32, 32),
        train_per_class=TRAIN_PER_CLASS,
        test_per_class=TEST_PER_CLASS,
        has_model_defaults=True,
        write_files=write_cifar10,
    ),
    "seq-cifar100": DatasetCase(
        num_tasks=10,
        classes_per_task=10,
        input_shape=(3, 32, 32),
        train_per_class=TRAIN_PER_CLASS,
        test_per_class=TEST_PER_CLASS,
        has_model_defaults=True,
        write_files=write_cifar100,
    ),
}


def test_files_with_a_wrong_checksum_are_not_used(monkeypatch, tmp_path):
    write_cifar10(tmp_path, monkeypatch)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(path.read_bytes()[:-9])
    disable_network(monkeypatch)
    with pytest.raises(DataError, match="seq-cifar10: the data is not in"):
        build_dataset("seq-cifar10", tmp_path).meta_get_data_loaders()


def test_class_names_come_from_the_files(tmp_path, monkeypatch):
    write_cifar100(tmp_path, monkeypatch)
    dataset = build_dataset("seq-cifar100", tmp_path)
    dataset.meta_get_data_loaders()
    assert dataset.info().class_names == tuple(f"class {k}" for k in range(100))
