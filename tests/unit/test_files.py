"""Atomic writes, the check before a run, and locks."""

import fcntl
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mammoth_compiled.errors import MammothError
from mammoth_compiled.files import check_writable, lock, write_atomically


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


@pytest.mark.parametrize("function", ["os.open", "os.write", "os.fsync"])
def test_check_writable_writes_a_file(tmp_path, monkeypatch, function):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(function, fail)
    with pytest.raises(MammothError, match=r"cannot write .*file: .*No space left"):
        check_writable(tmp_path / "a" / "file")
    monkeypatch.undo()
    assert os.listdir(tmp_path) == []


def test_symbolic_link_stays(tmp_path):
    (tmp_path / "folder").mkdir()
    link = tmp_path / "link"
    link.symlink_to(Path("folder") / "target")
    for content in (b"old", b"new"):
        write_atomically(link, content)
        assert link.is_symlink()
        assert (tmp_path / "folder" / "target").read_bytes() == content
    assert sorted(os.listdir(tmp_path)) == ["folder", "link"]
    assert os.listdir(tmp_path / "folder") == ["target"]


def test_existing_file_keeps_its_mode(tmp_path):
    write_atomically(tmp_path / "file", b"old")
    (tmp_path / "file").chmod(0o600)
    write_atomically(tmp_path / "file", b"new")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


def test_new_file_obeys_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        write_atomically(tmp_path / "file", b"secret")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


def test_pipe_is_written_to(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    check_writable(path)
    received = []
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)

    def read():
        while piece := os.read(reader, 65536):
            received.append(piece)

    content = os.urandom(300_000)  # more than a pipe holds
    thread = threading.Thread(target=read)
    # Before the writer opens the pipe, a read would return "end of file" at once.
    keep_open = os.open(path, os.O_WRONLY)
    thread.start()
    write_atomically(path, content)
    os.close(keep_open)
    thread.join(10)
    os.close(reader)
    assert b"".join(received) == content
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_pipe_without_a_reader_is_an_error(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MammothError, match=r"cannot write .*pipe: .*No such device or address"):
        write_atomically(tmp_path / "pipe", b"content")


@pytest.mark.parametrize("function", [check_writable, lambda path: write_atomically(path, b"")])
def test_socket_is_refused(tmp_path, monkeypatch, function):
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(MammothError, match="cannot write socket: it is a socket; give"):
            function(Path("socket"))
        assert stat.S_ISSOCK(os.stat("socket").st_mode)


def test_device_is_written_to(tmp_path):
    # A link to it, so that a mistake would not replace the device of this machine.
    link = tmp_path / "null"
    link.symlink_to("/dev/null")
    check_writable(link)
    write_atomically(link, b"content")
    assert stat.S_ISCHR(link.stat().st_mode)
    assert not list(Path("/dev").glob(".null*"))


def test_device_that_fails_is_reported(tmp_path):
    link = tmp_path / "full"
    link.symlink_to("/dev/full")
    with pytest.raises(MammothError, match=r"cannot write .*full: .*No space left on device"):
        write_atomically(link, b"content")


@pytest.mark.parametrize("to_file", [True, False])
def test_standard_output_keeps_its_lines(tmp_path, to_file):
    code = (
        "from pathlib import Path; from mammoth_compiled.files import *; path = Path('/dev/stdout')"
        "; check_writable(path); print('before'); write_atomically(path, b'content\\n')"
        "; print('after')"
    )
    output = tmp_path / "output"
    with open(output, "wb") as file:
        result = subprocess.run(
            [sys.executable, "-c", code], stdout=file if to_file else subprocess.PIPE, check=True
        )
    text = output.read_bytes() if to_file else result.stdout
    assert text == b"before\ncontent\nafter\n"
    assert os.listdir(tmp_path) == ["output"]


def test_leftover_of_a_killed_process_is_used_again(tmp_path):
    (tmp_path / ".file.tmp").write_bytes(b"half a file, longer than the new one")
    write_atomically(tmp_path / "file", b"whole")
    assert (tmp_path / "file").read_bytes() == b"whole"
    assert os.listdir(tmp_path) == ["file"]


def test_writers_of_the_same_file_do_not_mix(tmp_path):
    path = tmp_path / "file"
    contents = [bytes([i]) * 100_000 for i in range(8)]
    threads = [
        threading.Thread(target=lambda c=content: [write_atomically(path, c) for _ in range(10)])
        for content in contents
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert not path.exists() or path.read_bytes() in contents
    assert path.read_bytes() in contents
    assert os.listdir(tmp_path) == ["file"]


def test_lock_is_exclusive_and_leaves_no_file(tmp_path):
    path = tmp_path / "new" / "results.json"
    with lock(path, "results", "--results_path"):
        with (
            pytest.raises(MammothError, match="another run is writing results to"),
            lock(path, "results", "--results_path"),
        ):
            raise AssertionError("both hold the lock")
        with lock(tmp_path / "other", "results", "--results_path"):
            pass
    assert os.listdir(tmp_path) == []
    with lock(path, "results", "--results_path"):
        pass


def test_lock_of_a_dead_process_is_free(tmp_path):
    (tmp_path / ".file.lock").touch()
    with lock(tmp_path / "file", "results", "--results_path"):
        pass


def test_lock_without_support_of_the_file_system(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with lock(tmp_path / "file", "results", "--results_path"):
        write_atomically(tmp_path / "file", b"content")
    assert os.listdir(tmp_path) == ["file"]


def test_devices_are_not_locked():
    held = [lock(Path("/dev/null"), "results", "--results_path") for _ in range(2)]
    with held[0], held[1]:
        pass
