"""MNIST: where its files are found, and damaged files."""

from pathlib import Path

import pytest
from contract_cases import DatasetCase
from dataset_files import (
    TEST_PER_CLASS,
    TRAIN_PER_CLASS,
    build_dataset,
    disable_network,
    write_idx_files,
)

from mammoth_compiled.errors import DataError

CASES = {
    "seq-mnist": DatasetCase(
        num_tasks=5,
        classes_per_task=2,
        input_shape=(1, 28, 28),
        train_per_class=TRAIN_PER_CLASS,
        test_per_class=TEST_PER_CLASS,
        has_model_defaults=True,
        is_augmented=False,
        write_files=lambda root, monkeypatch: write_idx_files(root / "MNIST" / "raw"),
    )
}


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("folder", ["mnist", "MNIST/raw"])
def test_finds_files_in_all_folders(tmp_path, folder, compress):
    write_idx_files(tmp_path / "root" / folder, compress)
    dataset = build_dataset("seq-mnist", tmp_path / "root")
    dataset.meta_get_data_loaders()
    assert len(dataset.train_loader.dataset) == 2 * TRAIN_PER_CLASS


def test_finds_its_own_downloads(tmp_path, monkeypatch):
    # Writes the files where torchvision would unpack them.
    def download(root, download):
        assert download
        write_idx_files(Path(root) / "MNIST" / "raw")

    monkeypatch.setattr("mammoth_compiled.datasets.mnist.MNIST", download)
    for _ in range(2):  # the second time the files exist
        dataset = build_dataset("seq-mnist", tmp_path)
        dataset.meta_get_data_loaders()
        assert len(dataset.train_loader.dataset) == 2 * TRAIN_PER_CLASS


def test_ignores_the_files_of_fashion_mnist(tmp_path, monkeypatch):
    # They have the same names.
    write_idx_files(tmp_path / "here")
    disable_network(monkeypatch)
    dataset = build_dataset("seq-mnist", tmp_path / "here")
    with pytest.raises(DataError):
        dataset.meta_get_data_loaders()


@pytest.mark.parametrize("damage", ["truncated", "text", "other type", "empty"])
def test_damaged_files_are_reported(tmp_path, damage):
    write_idx_files(tmp_path / "mnist", compress=False)
    path = tmp_path / "mnist" / "train-images-idx3-ubyte"
    content = path.read_bytes()
    path.write_bytes(
        {
            "truncated": content[:-5],
            "text": b"<html>not found</html>",
            "other type": content[:2] + b"\x0d" + content[3:],
            "empty": b"",
        }[damage]
    )
    dataset = build_dataset("seq-mnist", tmp_path)
    with pytest.raises(DataError, match=f"{path} is not a complete IDX file .*: download it again"):
        dataset.meta_get_data_loaders()


def test_truncated_gzip_files_are_reported(tmp_path):
    write_idx_files(tmp_path / "mnist")
    path = tmp_path / "mnist" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-30])
    dataset = build_dataset("seq-mnist", tmp_path)
    with pytest.raises(DataError, match="is not a complete IDX file"):
        dataset.meta_get_data_loaders()
