"""write_atomically: complete files, or none."""

import os
import stat

import pytest

from mammoth_compiled.errors import MammothError
from mammoth_compiled.files import check_writable, write_atomically


def test_creates_missing_folders(tmp_path):
    path = tmp_path / "a" / "b" / "file.bin"
    write_atomically(path, b"content")
    assert path.read_bytes() == b"content"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(path.parent) == ["file.bin"]


def test_replaces_an_existing_file(tmp_path):
    write_atomically(tmp_path / "file", b"old")
    write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize("function", ["os.fsync", "os.replace"])
@pytest.mark.parametrize(
    ("error", "seen"), [(OSError, MammothError), (KeyboardInterrupt, KeyboardInterrupt)]
)
def test_failure_keeps_the_old_file(tmp_path, monkeypatch, function, error, seen):
    def fail(*_):
        raise error("no space left")

    write_atomically(tmp_path / "file", b"old")
    monkeypatch.setattr(function, fail)
    with pytest.raises(seen, match="no space left"):
        write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_unwritable_path_is_reported(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(MammothError, match=f"cannot write {tmp_path}/file/below"):
        write_atomically(tmp_path / "file" / "below", b"")


def test_check_writable_creates_nothing(tmp_path):
    check_writable(tmp_path / "a" / "b" / "file")
    assert os.listdir(tmp_path) == []


def test_check_writable_rejects_directories_and_files_as_parents(tmp_path):
    with pytest.raises(MammothError, match="it is a directory; give a file in it"):
        check_writable(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(MammothError, match="file is not a writable directory"):
        check_writable(tmp_path / "file" / "below")
