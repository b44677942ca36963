"""Files that users name: only regular ones of bounded size are read, and results are checked."""

import json
import math
import os

import pytest
from hostile_inputs.result_files import RESULTS, changed

from mammoth_compiled import files
from mammoth_compiled.config.config_file import MAX_RUNS, expand_grid, read_config_file
from mammoth_compiled.errors import ConfigError, MammothError
from mammoth_compiled.reading import read_file
from mammoth_compiled.results import Results
from mammoth_compiled.results.rescue import write_or_rescue
from mammoth_compiled.results.schema import read_results_file


def test_regular_files_are_read(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("a")
    assert read_file(tmp_path / "link", max_bytes=3) == b"abc"
    with pytest.raises(MammothError, match="it has 3 bytes, at most 2 are allowed"):
        read_file(tmp_path / "a", max_bytes=2)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/dev/zero", path)])
def test_other_files_are_refused(tmp_path, make):
    make(tmp_path / "x")
    with pytest.raises(MammothError, match=r"cannot read .*x: it is not a regular file"):
        read_file(tmp_path / "x")
    with pytest.raises(MammothError, match="Is a directory"):
        read_file(tmp_path)


@pytest.mark.parametrize("name", ["absent", "x" * 300, "a\0b"])
def test_missing_files_are_errors(tmp_path, name):
    with pytest.raises(MammothError, match="cannot read"):
        read_file(tmp_path / name)


def test_aliases_that_stand_for_too_many_values(tmp_path):
    lines = ["a: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"b{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    (tmp_path / "c.yaml").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="more than 100,000 values with all aliases"):
        read_config_file(str(tmp_path / "c.yaml"))
    (tmp_path / "c.yaml").write_text("lr: &lr [0.1, 0.2]\nclip_grad: *lr\n")
    assert read_config_file(str(tmp_path / "c.yaml"))["clip_grad"] == [0.1, 0.2]


def test_grids_of_too_many_runs():
    side = list(range(math.isqrt(MAX_RUNS)))
    assert len(expand_grid({"a": side, "b": side}, lists=())) == MAX_RUNS
    with pytest.raises(ConfigError, match="stand for 10,100 runs, at most 10,000"):
        expand_grid({"a": side, "b": [*side, -1]}, lists=())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (("class_il", 0, 0), 7, "class_il must be lists of numbers from 0 to 1"),
        (("task_il",), [[0.5]], "rows of the same lengths"),
        (("config", "seed"), "0", "config.seed must be an integer"),
        (("confusion",), [[1, 2]], "confusion must be a square matrix"),
        (("curve", 0), {}, "curve must be a list of evaluations"),
        (("notes",), 3, "notes must be an object"),
        (("notes", "steps"), 10**400, "notes.steps must be an integer below"),
        (("versions", "torch"), "\ud800", "not valid Unicode"),
        (("task_il",), ..., "lacks task_il"),
    ],
)
def test_invalid_results_name_the_field(tmp_path, field, value, message):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(RESULTS))
    assert read_results_file(path) == RESULTS
    path.write_text(json.dumps(changed(RESULTS, field, value)))
    with pytest.raises(MammothError, match=message):
        read_results_file(path)


def test_results_outlive_a_full_disk(tmp_path, monkeypatch):
    write = files.write_atomically
    results = Results(class_il=[[0.5]], task_il=[[0.5]])

    def full(path, content):
        if path.parent == tmp_path:
            raise MammothError(f"cannot write {path}: No space left on device")
        write(path, content)

    monkeypatch.setattr("mammoth_compiled.results.results.write_atomically", full)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "other"))
    with pytest.raises(MammothError, match=r"No space left on device$"):
        write_or_rescue(results, tmp_path / "results.json")  # there is no other place
    (tmp_path / "other").mkdir()
    with pytest.raises(MammothError, match="The results are saved in") as caught:
        write_or_rescue(results, tmp_path / "results.json")
    saved = str(caught.value).split("saved in ")[1]
    assert Results.read_json(saved).class_il == [[0.5]]
