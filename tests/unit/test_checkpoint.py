"""The checkpoint file: files that are rejected, and failures that leave no partial file."""

import os
import zipfile

import pytest
import torch

from mammoth_compiled.checkpoint import FORMAT, KEYS, VERSION, read_checkpoint, write_checkpoint
from mammoth_compiled.errors import CheckpointError, MammothError

CONTENT = {key: {"weights": torch.arange(4.0), "text": "a", "list": [1, None]} for key in KEYS}


class Malicious:
    """Pickles to a function call, like code in a malicious file."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "run.pt"


def test_round_trip(path):
    assert write_checkpoint(path, CONTENT) == path
    content = read_checkpoint(str(path))
    assert (content["format"], content["version"]) == (FORMAT, VERSION)
    assert torch.equal(content["net"]["weights"], torch.arange(4.0))
    assert content["results"]["list"] == [1, None]


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
def test_truncated_file_is_rejected(path, keep):
    write_checkpoint(path, CONTENT)
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(len(whole) * keep)])
    with pytest.raises(CheckpointError, match=r"run\.pt is truncated or not a checkpoint"):
        read_checkpoint(path)


def test_damaged_contents_are_rejected(path):
    write_checkpoint(path, CONTENT)
    content = bytearray(path.read_bytes())
    start = content.find(b"data.pkl") + 200
    content[start : start + 40] = b"\x00" * 40
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=r"run\.pt"):
        read_checkpoint(path)


def test_pickled_code_is_not_run(path, tmp_path):
    trace = tmp_path / "trace"
    write_checkpoint(path, {**CONTENT, "model": Malicious(trace)})
    with pytest.raises(CheckpointError, match="contains pickled code, which is not run"):
        read_checkpoint(path)
    assert not trace.exists()


def test_pickled_module_is_rejected(path):
    path.parent.mkdir()
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(CheckpointError, match="contains pickled code"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1, 2], torch.zeros(3)])
def test_other_contents_are_rejected(path, content):
    path.parent.mkdir()
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="is not a checkpoint of mammoth_compiled"):
        read_checkpoint(path)


def test_zip_archive_is_rejected(path):
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match=r"run\.pt is damaged"):
        read_checkpoint(path)


def test_text_file_is_rejected(path):
    path.parent.mkdir()
    path.write_text("no archive")
    with pytest.raises(CheckpointError, match="truncated or not a checkpoint"):
        read_checkpoint(path)


def test_folder_or_missing_file_is_rejected(path):
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*--savecheck task\|last writes"):
        read_checkpoint(path)
    path.mkdir(parents=True)
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        read_checkpoint(path)


@pytest.mark.parametrize("key", KEYS)
def test_missing_entry_is_named(path, key):
    write_checkpoint(path, {k: v for k, v in CONTENT.items() if k != key})
    with pytest.raises(CheckpointError, match=f"lacks {key}$"):
        read_checkpoint(path)


def test_later_version_is_rejected(path, monkeypatch):
    monkeypatch.setattr("mammoth_compiled.checkpoint.VERSION", VERSION + 1)
    write_checkpoint(path, CONTENT)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=f"version {VERSION + 1}, but this release reads"):
        read_checkpoint(path)


def test_earlier_version_is_rejected(path, monkeypatch):
    monkeypatch.setattr("mammoth_compiled.checkpoint.VERSION", VERSION - 1)
    write_checkpoint(path, CONTENT)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=f"earlier release .version {VERSION - 1}, this"):
        read_checkpoint(path)


def test_failed_write_keeps_the_old_file(path, monkeypatch):
    write_checkpoint(path, CONTENT)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(MammothError, match=r"cannot write .*run\.pt: no space"):
        write_checkpoint(path, {**CONTENT, "tasks_done": 9})
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["run.pt"]


def test_unpicklable_contents_leave_no_file(path):
    with pytest.raises(Exception, match="pickle"):
        write_checkpoint(path, {**CONTENT, "net": lambda: 0})
    assert not path.exists()
