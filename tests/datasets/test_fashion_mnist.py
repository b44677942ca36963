"""Fashion-MNIST: where its files are found, and the subset that the package ships."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from contract_cases import DatasetCase
from dataset_files import TEST_PER_CLASS, TRAIN_PER_CLASS, build_dataset, write_idx_files

from mammoth_compiled.datasets import fashion_mnist
from mammoth_compiled.registry import datasets


def write_files(root, monkeypatch):
    ignore_debian(root, monkeypatch)
    write_idx_files(root / "FashionMNIST" / "raw")


def ignore_debian(root, monkeypatch):
    # The machine that runs the tests may have the Debian package.
    monkeypatch.setattr(fashion_mnist, "DEBIAN", root / "nowhere")


CASES = {
    "seq-fmnist": DatasetCase(
        num_tasks=5,
        classes_per_task=2,
        input_shape=(3, 32, 32),
        train_per_class=TRAIN_PER_CLASS,
        test_per_class=TEST_PER_CLASS,
        has_model_defaults=True,
        write_files=write_files,
        hint="apt-get install dataset-fashion-mnist",
    ),
    "seq-fmnist-mini": DatasetCase(
        num_tasks=5,
        classes_per_task=2,
        input_shape=(3, 32, 32),
        train_per_class=600,
        test_per_class=200,
        has_model_defaults=True,
    ),
}


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("folder", [".", "fashion-mnist", "FashionMNIST/raw"])
def test_finds_files_in_all_folders(tmp_path, monkeypatch, folder, compress):
    ignore_debian(tmp_path, monkeypatch)
    write_idx_files(tmp_path / "root" / folder, compress)
    dataset = build_dataset("seq-fmnist", tmp_path / "root")
    dataset.meta_get_data_loaders()
    assert len(dataset.train_loader.dataset) == 2 * TRAIN_PER_CLASS


def test_finds_the_files_of_the_debian_package(tmp_path, monkeypatch):
    write_idx_files(tmp_path / "debian")
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")
    dataset = datasets["seq-fmnist"].target(Namespace(batch_size=7, data_dir=None))
    dataset.meta_get_data_loaders()
    assert len(dataset.train_loader.dataset) == 2 * TRAIN_PER_CLASS


def test_finds_its_own_downloads(tmp_path, monkeypatch):
    # Writes the files where torchvision would unpack them.
    def download(root, download):
        assert download
        write_idx_files(Path(root) / "FashionMNIST" / "raw")

    ignore_debian(tmp_path, monkeypatch)
    monkeypatch.setattr("mammoth_compiled.datasets.fashion_mnist.FashionMNIST", download)
    for _ in range(2):  # the second time the files exist
        dataset = build_dataset("seq-fmnist", tmp_path)
        dataset.meta_get_data_loaders()
        assert len(dataset.train_loader.dataset) == 2 * TRAIN_PER_CLASS


def test_packaged_files_are_small_real_and_disjoint():
    folder = Path(fashion_mnist.PACKAGED)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 6e6
    for split, per_class in (("train", 600), ("test", 200)):
        dataset = datasets["seq-fmnist-mini"].target(Namespace(batch_size=7))
        images, labels = fashion_mnist.SequentialFashionMNIST.read(*dataset.files(split))
        assert np.bincount(labels).tolist() == [per_class] * 10
        assert len({image.tobytes() for image in images}) > 0.99 * len(images)
    train_images, _ = fashion_mnist.SequentialFashionMNIST.read(*dataset.files("train"))
    test_images, _ = fashion_mnist.SequentialFashionMNIST.read(*dataset.files("test"))
    known = {image.tobytes() for image in train_images}
    assert sum(image.tobytes() in known for image in test_images) == 0
