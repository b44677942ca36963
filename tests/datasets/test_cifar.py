"""CIFAR-10 and CIFAR-100: class names and damaged files."""

import pytest
from contract_cases import DatasetCase
from dataset_files import (
    TEST_PER_CLASS,
    TRAIN_PER_CLASS,
    build_dataset,
    disable_network,
    write_cifar10,
    write_cifar100,
)
from torchvision.datasets import CIFAR10, CIFAR100

from mammoth_compiled.datasets.download import archive_hint
from mammoth_compiled.errors import DataError

CASES = {
    "seq-cifar10": DatasetCase(
        num_tasks=5,
        classes_per_task=2,
        input_shape=(3, 32, 32),
        train_per_class=TRAIN_PER_CLASS,
        test_per_class=TEST_PER_CLASS,
        has_model_defaults=True,
        write_files=write_cifar10,
        hint=archive_hint(CIFAR10.url, CIFAR10.tgz_md5),
    ),
    "seq-cifar100": DatasetCase(
        num_tasks=10,
        classes_per_task=10,
        input_shape=(3, 32, 32),
        train_per_class=TRAIN_PER_CLASS,
        test_per_class=TEST_PER_CLASS,
        has_model_defaults=True,
        write_files=write_cifar100,
        hint=archive_hint(CIFAR100.url, CIFAR100.tgz_md5),
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
