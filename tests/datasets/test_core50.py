"""CORe50 by session and by object."""

import numpy as np
import pytest
from contract_cases import DatasetCase
from dataset_files import build_dataset, write_image

from mammoth_compiled.datasets import core50
from mammoth_compiled.datasets.download import archive_hint
from mammoth_compiled.errors import DataError


def write_files(root, monkeypatch):
    """Writes one frame of each object in each session."""
    for session in range(1, 12):
        for k in range(50):
            name = f"C_{session:02}_{k + 1:02}_000.png"
            write_image(root / "core50_128x128" / f"s{session}" / f"o{k + 1}" / name, k, (16, 16))


HINT = archive_hint(core50.ARCHIVE.url, core50.ARCHIVE.md5)
CASES = {
    "core50": DatasetCase(
        num_tasks=8,
        classes_per_task=50,
        input_shape=(3, 16, 16),
        train_per_class=1,
        test_per_class=3,
        setting="domain-il",
        write_files=write_files,
        arguments={"image_size": 16},
        hint=HINT,
    ),
    "seq-core50": DatasetCase(
        num_tasks=9,
        classes_per_task=(10, 5, 5, 5, 5, 5, 5, 5, 5),
        input_shape=(3, 16, 16),
        train_per_class=8,
        test_per_class=3,
        write_files=write_files,
        arguments={"image_size": 16},
        hint=HINT,
    ),
}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MAMMOTH_CACHE_DIR", str(tmp_path / "cache"))


def test_sessions(tmp_path, monkeypatch):
    write_files(tmp_path, monkeypatch)
    dataset = build_dataset("core50", tmp_path, image_size=16)
    assert (dataset.N_TASKS, dataset.N_CLASSES) == (8, 50)
    numbers = {int(name.split("/")[0][1:]) for name in dataset.sessions(core50.TEST_SESSIONS).files}
    assert numbers == {3, 7, 10}
    assert not numbers & {*core50.TRAIN_SESSIONS}
    assert dataset.info().class_names[7] == "mobile phone 3"


def test_test_sessions_have_one_loader(tmp_path, monkeypatch):
    write_files(tmp_path, monkeypatch)
    dataset = build_dataset("core50", tmp_path, image_size=16)
    trained = [dataset.meta_get_data_loaders()[0].dataset.data for _ in range(3)]
    assert len({id(loader) for loader in dataset.test_loaders}) == 1
    assert len(dataset.test_loaders) == 3
    assert all(np.array_equal(trained[0], images) for images in trained)  # one value per object


def test_an_archive_without_images_is_reported(tmp_path):
    (tmp_path / "core50_128x128").mkdir()
    with pytest.raises(DataError, match=r"core50: .* has no images sN/oM/.* of sessions 3, 7, 10"):
        build_dataset("core50", tmp_path).meta_get_data_loaders()
