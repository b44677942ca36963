"""Hostile command lines: every argument with every kind of invalid text."""

import errno
import io
import subprocess
import sys
from pathlib import Path

import pytest
from hostile_values import invalid_texts, parser

from mammoth_compiled import console, training
from mammoth_compiled import run as command
from mammoth_compiled.compiler import autotune
from mammoth_compiled.errors import MammothError, OutputError
from mammoth_compiled.files import user_cache, write_atomically

RUN = ["--model", "derpp", "--dataset", "seq-tiny", "--backbone", "cnn"]
REQUIRED = {"buffer_size": "20", "alpha": "0.1", "beta": "0.5", "compile": "off", "seed": "0"}


@pytest.fixture(autouse=True)
def _no_training(monkeypatch, tiny):
    def train(*_, **__):
        raise AssertionError("a hostile command line was trained")

    monkeypatch.setattr(training, "train", train)


def words(**given):
    """Returns a command line that is valid but for the given arguments."""
    values = dict(zip((word[2:] for word in RUN[::2]), RUN[1::2], strict=True)) | REQUIRED | given
    return [f"--{name}={value}" for name, value in values.items()]


def names():
    from mammoth_compiled.registry import datasets

    with datasets.restored():
        return [n for n in parser(dataset="seq-fmnist-mini").arguments if n not in ("help",)]


@pytest.mark.parametrize("name", names())
def test_invalid_text(refused, name):
    extra = {}
    if name in ("formats", "export_variants"):
        extra["export"] = "bundle"
    for text in invalid_texts(parser().arguments[name]):
        argv = words(**extra, **{name: text})
        # Names of parts are refused by the registry, which names the kind and not the flag.
        flag = {"formats": "format", "export_variants": "variant"}.get(name, name)
        refused(argv[-1][:99], lambda argv=argv: command.run(argv), flag)


# --- Standard output -------------------------------------------------------------------------

PARTS = ("--model", "sgd", "--dataset", "seq-fmnist-mini", "--backbone", "mnistmlp")
PARTS += ("--debug_mode", "1")


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        ("run", ("--help",)),
        ("run", ("--list",)),
        ("run", (*PARTS, "--savecheck", "task", "--checkpoint_path", "written")),
        ("sweep", ("--help",)),
        ("sweep", ("exp.yaml", "--workers", "2", "--out", "written")),
    ],
)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full of Linux")
def test_full_output_ends_before_any_work(tmp_path, command, argv):
    (tmp_path / "exp.yaml").write_text("model: sgd\ndataset: seq-fmnist-mini\nseed: [0, 1]\n")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", f"mammoth_compiled.{command}", *argv],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            timeout=600,
        )
    assert (done.returncode, done.stderr) == (
        1,
        "error: cannot write to standard output: No space left on device\n",
    )
    assert not list(tmp_path.glob("written/*"))


def test_output_that_fills_up_later_does_not_end_the_run(monkeypatch):
    class Full(io.StringIO):
        def flush(self):
            if self.getvalue().count("\n") > 1:
                raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    console.begin_output()
    for line in ("one", "two", "three"):
        console.say(line)
    assert sys.stdout.getvalue() == "one\ntwo\n"
    assert console.output_failure() == "No space left on device"


def test_closed_output_is_an_error(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    console.begin_output()
    with pytest.raises(OutputError, match="standard output: it is closed"):
        console.say("one")


def test_output_escapes_what_its_encoding_lacks(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    console.begin_output()
    console.say("caf\udce9 \u00fc")
    assert raw.getvalue() == b"caf\\udce9 \\xfc\n"


# --- Directories -----------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["file", "file/data"])
@pytest.mark.parametrize("source", ["--data_dir", "MAMMOTH_BASE_PATH"])
def test_data_directory_that_is_a_file(refused, tmp_path, monkeypatch, where, source):
    (tmp_path / "file").write_text("")
    given = {}
    if source == "--data_dir":
        given["data_dir"] = str(tmp_path / where)
    else:
        monkeypatch.setenv(source, str(tmp_path / where))
    refused(source, lambda: command.run(words(**given)), source, "is not a directory")


@pytest.mark.parametrize("name", ["results_path", "export"])
def test_path_inside_a_file(refused, tmp_path, name):
    (tmp_path / "file").write_text("")
    given = {name: str(tmp_path / "file" / "x")}
    refused(name, lambda: command.run(words(**given)), str(tmp_path / "file"))


# --- Caches ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "missing in a file", "empty", "too long"])
def test_cache_directory_that_cannot_be_used(monkeypatch, tmp_path, kind):
    path = {
        "file": tmp_path / "file",
        "missing in a file": tmp_path / "file" / "cache",
        "empty": "",
        "too long": tmp_path / ("x" * 300),
    }[kind]
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MAMMOTH_CACHE_DIR", str(path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(MammothError, match="cannot write"):  # the autotuner then only warns
        write_atomically(user_cache() / "fastest.json", b"{}")
    assert autotune._read(user_cache() / "fastest.json") == {}


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b"null", b"{", b"3", b'{"a": ['])
def test_damaged_autotuning_cache_is_empty(tmp_path, content):
    path = tmp_path / "fastest.json"
    path.write_bytes(content)
    assert autotune._read(path) == {}
