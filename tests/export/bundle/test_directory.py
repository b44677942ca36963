"""export_bundle and its directory: arguments, atomic replacement, and protection of other files."""

import os
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mammoth_compiled.errors import ContractError, ExportError
from mammoth_compiled.export import export_bundle, update_bundle, verify_bundle
from mammoth_compiled.export.bundle import directory
from mammoth_compiled.export.bundle.manifest_reader import read_manifest
from mammoth_compiled.export.formats import FORMATS
from mammoth_compiled.types import DatasetInfo

SHAPE = (3, 8, 6)
IMAGES = torch.linspace(-2, 2, 5 * 3 * 8 * 6).reshape(5, *SHAPE)
CONTENT = {"manifest.json", "README.md", "weights.safetensors", "golden"}


@pytest.fixture
def fast_export(small_bundle):
    """`export_bundle` for the network in `small_bundle`, in the fastest format."""

    def export(path, **arguments):
        arguments = {"formats": "safetensors"} | (arguments or {"input_shape": SHAPE})
        return export_bundle(small_bundle[0], path, **arguments)

    return export


def test_model_provides_net_and_dataset_info(small_bundle, small_info, tmp_path):
    class Dataset:
        def info(self):
            return small_info

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small_bundle[0]
            self.dataset = Dataset()

    path = export_bundle(Model(), tmp_path / "a" / "b", formats="safetensors")
    assert read_manifest(path).info == small_info
    assert read_manifest(path).name == "SmallNet"
    other = replace(small_info, name="other", tasks_seen=2)
    export_bundle(Model(), path, info=other, formats="safetensors", name="small")
    assert read_manifest(path).info.classes_seen == (0, 1, 2, 3)
    assert read_manifest(path).name == "small"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"give input_shape=\(C, H, W\)"),
        ({"input_shape": (8, 6)}, r"three positive numbers \(C, H, W\), not \(8, 6\)"),
        ({"input_shape": 32}, "not 32"),
        ({"input_shape": (3, 0, 6)}, r"not \(3, 0, 6\)"),
        (
            {"input_shape": (3, 8, 8), "info": DatasetInfo("d", SHAPE)},
            r"\(3, 8, 8\) is not the \(3, 8, 6\) of dataset 'd'",
        ),
        ({"info": DatasetInfo("d", SHAPE, mean=(0.5,))}, "info.mean must have 3 entries, not 1"),
        ({"info": DatasetInfo("d", SHAPE, class_names=("a",))}, "info.class_names must have 4"),
        ({"input_shape": SHAPE, "samples": IMAGES[0]}, r"float32 \[N, 3, 8, 6\], but are"),
        ({"input_shape": SHAPE, "samples": IMAGES[:0]}, r"but are torch.float32 \[0, 3, 8, 6\]"),
        ({"input_shape": SHAPE, "samples": IMAGES.byte()}, "but are torch.uint8"),
        ({"input_shape": SHAPE, "samples": [1]}, "samples must be a torch tensor, not list"),
    ],
)
def test_invalid_arguments_raise_before_writing(
    small_net, tmp_path, arguments, message, monkeypatch
):
    monkeypatch.setattr(
        FORMATS["onnx"], "write", lambda *_: pytest.fail("exported before the check")
    )
    with pytest.raises(ExportError, match=message):
        export_bundle(small_net, tmp_path / "bundle", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_wrong_number_of_classes_raises(small_net, tmp_path):
    info = DatasetInfo("d", SHAPE, num_classes=9)
    with pytest.raises(ContractError, match="num_classes = 9"):
        export_bundle(small_net, tmp_path / "bundle", info=info)


def test_samples_are_compared_and_stored_as_golden_input(fast_export, tmp_path, monkeypatch):
    from mammoth_compiled.export.parity import reference

    seen = []
    real = reference.make_batch
    monkeypatch.setattr(
        reference, "make_batch", lambda *arguments: seen.append(arguments[-1]) or real(*arguments)
    )
    path = fast_export(tmp_path / "bundle", input_shape=SHAPE, samples=IMAGES)
    assert torch.equal(seen[-1], IMAGES[:4])
    assert np.array_equal(np.load(path / "golden/input.npy"), IMAGES[:4].numpy())


def tree(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
        for p in folder.rglob("*")
    }


def test_new_empty_and_bundle_directories_are_written(fast_export, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert fast_export("new") == tmp_path / "new"
    assert fast_export(tmp_path / "empty") == tmp_path / "empty"
    (tmp_path / "link").symlink_to("new")
    (tmp_path / "new" / "manifest.json").chmod(0o600)
    before = (tmp_path / "new" / "manifest.json").stat().st_ino
    assert fast_export("link") == tmp_path / "new"
    assert (tmp_path / "new" / "manifest.json").stat().st_ino != before
    assert {p.name for p in tmp_path.iterdir()} == {"new", "empty", "link"}
    assert set(os.listdir(tmp_path / "new")) == CONTENT
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o777 & ~umask


def test_foreign_files_are_never_overwritten(fast_export, small_bundle, tmp_path):
    (tmp_path / "file").write_text("text")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("user file")
    (tmp_path / "garbage").mkdir()
    (tmp_path / "garbage" / "model.onnx").write_bytes(b"not a bundle's")
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "manifest.json").write_text('{"schema": 2}')
    mixed = fast_export(tmp_path / "mixed")
    (mixed / "notes.txt").write_text("user file")
    before = tree(tmp_path)
    for name, message in (
        ("file", "is a file"),
        ("file/below", "not a writable directory|cannot be accessed"),
        ("foreign", "holds files that do not belong to a bundle"),
        ("garbage", "holds files that do not belong to a bundle"),
        ("later", "holds files that do not belong to a bundle"),
        ("mixed", "holds files that do not belong to a bundle"),
        ("", "holds files that do not belong to a bundle"),
        ("new/model.onnx", "give the directory of the bundle"),
    ):
        with pytest.raises(ExportError, match=message):
            fast_export(tmp_path / name)
    assert tree(tmp_path) == before


def test_unwritable_parent_raises(fast_export, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *args: False)
    with pytest.raises(ExportError, match="is not a writable directory"):
        fast_export(tmp_path / "a" / "bundle")


def test_failed_write_keeps_the_old_bundle(fast_export, tmp_path, monkeypatch):
    path = fast_export(tmp_path / "bundle")
    before = tree(tmp_path)

    def full(self, data, **kwargs):
        with open(self, "w") as stream:
            stream.write(data[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    for target in (path, tmp_path / "new" / "bundle"):
        with pytest.raises(ExportError, match=r"cannot be written .*No space left"):
            fast_export(target)
        assert tree(tmp_path) == before


def test_failed_rename_restores_the_old_bundle(tmp_path, fast_export, monkeypatch):
    path = fast_export(tmp_path / "bundle")
    before = tree(tmp_path)
    rename = Path.rename

    def fail_for_new(self, target):
        if self.name.endswith(".new"):
            raise OSError("rename refused")
        return rename(self, target)

    monkeypatch.setattr(directory, "exchange", lambda first, second: False)
    monkeypatch.setattr(Path, "rename", fail_for_new)
    with pytest.raises(ExportError, match="rename refused"):
        fast_export(path)
    assert tree(tmp_path) == before


def test_files_that_appear_during_export_are_kept(tmp_path):
    def export(target):
        with directory.replace_atomically(target) as folder:
            (folder / "manifest.json").write_bytes(b"new")
            target.mkdir()
            (target / "notes.txt").write_text("user file")

    with pytest.raises(ExportError, match="do not belong to a bundle"):
        export(directory.check_target(tmp_path / "bundle"))
    assert tree(tmp_path) == {"bundle": None, "bundle/notes.txt": b"user file"}


def test_exchange_replaces_in_one_step(tmp_path, fast_export, monkeypatch):
    path = fast_export(tmp_path / "bundle")
    if not directory.exchange(path, path):
        pytest.skip("the file system cannot exchange directories")
    monkeypatch.setattr(Path, "rename", lambda *_: pytest.fail("the bundle was moved away"))
    before = path.stat().st_ino
    fast_export(path)
    assert path.stat().st_ino != before
    assert tmp_path.joinpath("bundle", "manifest.json").is_file()
    assert set(os.listdir(tmp_path)) == {"bundle"}


@pytest.mark.parametrize("call", ["export", "verify", "update"])
@pytest.mark.parametrize("killed", ["while writing", "between renames", "before removing"])
def test_killed_export_is_recovered(tmp_path, small_bundle, fast_export, call, killed):
    path = fast_export(tmp_path / "bundle")
    (tmp_path / ".bundle.01234567.new").mkdir()
    (tmp_path / ".bundle.01234567.new" / "model.onnx").write_bytes(b"half")
    if killed == "between renames":
        path.rename(tmp_path / ".bundle.01234567.old")
    elif killed == "before removing":
        (tmp_path / ".bundle.01234567.old").mkdir()
    (tmp_path / ".bundle.mine.new").mkdir()
    {
        "export": lambda: fast_export(path),
        "verify": lambda: verify_bundle(path),
        "update": lambda: update_bundle(path, small_bundle[0]),
    }[call]()
    assert set(os.listdir(tmp_path)) == {"bundle", ".bundle.mine.new"}
    assert set(os.listdir(path)) == CONTENT


def test_directories_of_running_processes_are_kept(tmp_path, fast_export):
    target = directory.check_target(tmp_path / "bundle")
    with directory.replace_atomically(target) as other:
        fast_export(target)
        assert other.is_dir()
        (other / "manifest.json").write_bytes((target / "manifest.json").read_bytes())
    assert set(os.listdir(tmp_path)) == {"bundle"}
