"""Tiny ImageNet: lists and folders of its archive, downloads."""

import hashlib
import os
import shutil
import zipfile
from dataclasses import replace

import pytest
from contract_cases import DatasetCase
from dataset_files import build_dataset, disable_network, write_image

from mammoth_compiled.datasets import tiny_imagenet
from mammoth_compiled.datasets.download import archive_hint
from mammoth_compiled.errors import DataError

IDS = [f"n{9_000 - k:08}" for k in range(200)]  # in another order than sorted


def write_files(root, monkeypatch):
    folder = root / "tiny-imagenet-200"
    classes = sorted(IDS)
    annotations = []
    for k, name in enumerate(classes):
        for i in range(2):
            write_image(folder / "train" / name / "images" / f"{name}_{i}.JPEG", k, (64, 64))
        write_image(folder / "val" / "images" / f"val_{k}.JPEG", k, (64, 64))
        annotations.append(f"val_{k}.JPEG\t{name}\t0\t32\t44\t62\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(reversed(annotations)))
    (folder / "wnids.txt").write_text("\n".join(IDS))
    (folder / "words.txt").write_text("".join(f"{i}\tcrane, a bird\n" for i in IDS))


CASES = {
    "seq-tinyimg": DatasetCase(
        num_tasks=10,
        classes_per_task=20,
        input_shape=(3, 64, 64),
        train_per_class=2,
        test_per_class=1,
        write_files=write_files,
        hint=archive_hint(tiny_imagenet.ARCHIVE.url, tiny_imagenet.ARCHIVE.md5),
    )
}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MAMMOTH_CACHE_DIR", str(tmp_path / "cache"))


def test_names_are_unique_though_words_are_not(tmp_path, monkeypatch):
    write_files(tmp_path, monkeypatch)
    dataset = build_dataset("seq-tinyimg", tmp_path)
    dataset.meta_get_data_loaders()
    assert dataset.info().class_names[0] == f"crane ({min(IDS)})"


def test_incomplete_lists_are_reported(tmp_path, monkeypatch):
    write_files(tmp_path, monkeypatch)
    path = tmp_path / "tiny-imagenet-200" / "val" / "val_annotations.txt"
    path.write_text("val_0.JPEG\n")
    with pytest.raises(DataError, match=f"{path}: row 1 has 1 of 2 columns: extract the archive"):
        build_dataset("seq-tinyimg", tmp_path).meta_get_data_loaders()
    path.unlink()
    with pytest.raises(DataError, match=f"{path} cannot be read"):
        build_dataset("seq-tinyimg", tmp_path).meta_get_data_loaders()


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """The archive as a zip file that `download_url` finds, with its MD5 sum."""
    write_files(tmp_path / "source", monkeypatch)
    path = tmp_path / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(path, "w") as file:
        for item in sorted((tmp_path / "source").rglob("*")):
            file.write(item, item.relative_to(tmp_path / "source"))
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setattr(tiny_imagenet, "ARCHIVE", replace(tiny_imagenet.ARCHIVE, md5=md5))
    downloads = []

    def download(url, folder, md5):
        downloads.append(url)
        assert hashlib.md5(path.read_bytes()).hexdigest() == md5
        shutil.copy(path, folder)

    monkeypatch.setattr("mammoth_compiled.datasets.download.download_url", download)
    return downloads


def test_downloads_and_extracts_once(archive, tmp_path):
    root = tmp_path / "data"
    for _ in range(2):
        dataset = build_dataset("seq-tinyimg", root)
        dataset.meta_get_data_loaders()
        assert archive == ["http://cs231n.stanford.edu/tiny-imagenet-200.zip"]
    assert [path.name for path in root.iterdir()] == ["tiny-imagenet-200"]


def test_a_failed_extraction_leaves_no_folder(archive, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("mammoth_compiled.datasets.download.extract_archive", fail)
    disable_network(monkeypatch)
    with pytest.raises(DataError, match=r"the download failed .*disk full"):
        build_dataset("seq-tinyimg", tmp_path / "data").meta_get_data_loaders()
    assert not list((tmp_path / "data").iterdir())


def test_a_folder_that_another_run_extracted_meanwhile_is_used(archive, tmp_path, monkeypatch):
    root = tmp_path / "data"

    def slow_rename(source, target):
        shutil.copytree(source, target)  # the other run
        os.replace(source, target)  # fails, because the folder is not empty

    monkeypatch.setattr("mammoth_compiled.datasets.download.os.rename", slow_rename)
    build_dataset("seq-tinyimg", root).meta_get_data_loaders()
    assert [path.name for path in root.iterdir()] == ["tiny-imagenet-200"]
