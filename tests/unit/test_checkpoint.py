"""The checkpoint file: what is refused, and that a failure leaves nothing half-written."""

import os
import zipfile

import pytest
import torch

from mammoth_compiled.checkpoint import FORMAT, KEYS, VERSION, read_checkpoint, write_checkpoint
from mammoth_compiled.errors import CheckpointError, MammothError

CONTENT = {key: {"weights": torch.arange(4.0), "text": "a", "list": [1, None]} for key in KEYS}


class Harmful:
    """Pickles to a call of a function: what code in a file looks like."""

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
def test_truncated(path, keep):
    write_checkpoint(path, CONTENT)
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(len(whole) * keep)])
    with pytest.raises(CheckpointError, match=r"run\.pt is truncated or no checkpoint"):
        read_checkpoint(path)


def test_damaged_inside(path):
    write_checkpoint(path, CONTENT)
    content = bytearray(path.read_bytes())
    start = content.find(b"data.pkl") + 200
    content[start : start + 40] = b"\x00" * 40
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=r"run\.pt"):
        read_checkpoint(path)


def test_pickled_code_is_not_run(path, tmp_path):
    trace = tmp_path / "trace"
    write_checkpoint(path, {**CONTENT, "model": Harmful(trace)})
    with pytest.raises(CheckpointError, match="holds pickled code, which is not run"):
        read_checkpoint(path)
    assert not trace.exists()


def test_a_whole_module_is_pickled_code(path):
    path.parent.mkdir()
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(CheckpointError, match="holds pickled code"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1, 2], torch.zeros(3)])
def test_a_file_of_something_else(path, content):
    path.parent.mkdir()
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="is not a checkpoint of mammoth_compiled"):
        read_checkpoint(path)


def test_a_zip_archive(path):
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match=r"run\.pt is damaged"):
        read_checkpoint(path)


def test_a_text_file(path):
    path.parent.mkdir()
    path.write_text("no archive")
    with pytest.raises(CheckpointError, match="truncated or no checkpoint"):
        read_checkpoint(path)


def test_a_folder_or_nothing(path):
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*--savecheck task\|last writes"):
        read_checkpoint(path)
    path.mkdir(parents=True)
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        read_checkpoint(path)


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_part_is_named(path, key):
    write_checkpoint(path, {k: v for k, v in CONTENT.items() if k != key})
    with pytest.raises(CheckpointError, match=f"lacks {key}$"):
        read_checkpoint(path)


def test_a_later_version(path, monkeypatch):
    monkeypatch.setattr("mammoth_compiled.checkpoint.VERSION", VERSION + 1)
    write_checkpoint(path, CONTENT)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=f"version {VERSION + 1}, this release reads"):
        read_checkpoint(path)


def test_failure_leaves_the_old_file(path, monkeypatch):
    write_checkpoint(path, CONTENT)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(MammothError, match=r"cannot write .*run\.pt: no space"):
        write_checkpoint(path, {**CONTENT, "tasks_done": 9})
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["run.pt"]


def test_what_cannot_be_saved_leaves_no_file(path):
    with pytest.raises(Exception, match="pickle"):
        write_checkpoint(path, {**CONTENT, "net": lambda: 0})
    assert not path.exists()
