"""SVHN: files in MATLAB's format."""

import hashlib
import sys

import numpy as np
import pytest
import scipy.io
from contract_cases import DatasetCase
from dataset_files import (
    TEST_PER_CLASS,
    TRAIN_PER_CLASS,
    build_dataset,
    disable_network,
    labels_and_values,
)
from torchvision.datasets import SVHN

from mammoth_compiled.errors import DataError


def write_files(root, monkeypatch):
    """Writes train_32x32.mat and test_32x32.mat, where zero has the label 10; replaces MD5 sums."""
    root.mkdir(parents=True)
    splits = dict(SVHN.split_list)
    for split, per_class in (("train", TRAIN_PER_CLASS), ("test", TEST_PER_CLASS)):
        labels, values = labels_and_values(per_class, 10)
        images = np.broadcast_to(values, (32, 32, 3, len(values)))
        url, name, _ = splits[split]
        stored = {"X": images, "y": np.where(labels == 0, 10, labels)[:, None].astype(np.uint8)}
        scipy.io.savemat(root / name, stored)
        splits[split] = [url, name, hashlib.md5((root / name).read_bytes()).hexdigest()]
    monkeypatch.setattr(SVHN, "split_list", splits)


CASES = {
    "seq-svhn": DatasetCase(
        num_tasks=5,
        classes_per_task=2,
        input_shape=(3, 32, 32),
        train_per_class=TRAIN_PER_CLASS,
        test_per_class=TEST_PER_CLASS,
        is_augmented=False,  # cropped, but digits are not flipped
        write_files=write_files,
        hint="The file is http://ufldl.stanford.edu/housenumbers/train_32x32.mat.",
    )
}


def test_damaged_files_are_not_used(tmp_path, monkeypatch):
    write_files(tmp_path / "files", monkeypatch)
    path = tmp_path / "files" / "test_32x32.mat"
    path.write_bytes(path.read_bytes()[:-9])
    disable_network(monkeypatch)
    with pytest.raises(DataError, match="seq-svhn: the data is not in"):
        build_dataset("seq-svhn", tmp_path / "files").meta_get_data_loaders()


def test_missing_scipy_is_reported(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(DataError, match="seq-svhn is stored in MATLAB files: pip install scipy"):
        build_dataset("seq-svhn", tmp_path).meta_get_data_loaders()
