"""The manifest conforms to its published schema, and is validated when it is read."""

import copy
import json
import os
import shutil
from pathlib import Path

import jsonschema
import pytest

import mammoth_compiled.export
from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.bundle.hashes import check_file
from mammoth_compiled.export.bundle.manifest import FILE_NAME
from mammoth_compiled.export.bundle.manifest_reader import read_manifest
from mammoth_compiled.types import ReturnTypes

SCHEMA = json.loads(
    (Path(mammoth_compiled.export.__file__).parent / "manifest.schema.json").read_text()
)


@pytest.fixture
def content(small_bundle):
    return json.loads((small_bundle[1] / FILE_NAME).read_text())


def put(folder, content):
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / FILE_NAME).write_text(text)
    return folder


def changed(content, path, value):
    """Returns a copy with one value replaced, or removed; `path` is as in "files.0.path"."""
    result = copy.deepcopy(content)
    *parents, last = (int(key) if key.isdigit() else key for key in path.split("."))
    parent = result
    for key in parents:
        parent = parent[key]
    if value is KeyError:
        del parent[last]
    else:
        parent[last] = value
    return result


def test_manifest_conforms_to_the_schema(content):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(content, SCHEMA, jsonschema.Draft202012Validator)
    assert content["schema"] == 1
    assert content["preprocessing"] == {
        "folded": False,
        "scale": 1 / 255,
        "mean": [0.5, 0.25, 0.125],
        "std": [0.5, 0.25, 2.0],
    }
    assert content["classes"] == {
        "ids": [0, 1, 2, 3],
        "names": ["red", "green", "blue", "grün"],
        "seen": [0, 1],
        "tasks": [[0, 2], [2, 4]],
        "tasks_seen": 1,
        "head": "all",
        "softmax": False,
    }
    assert content["dataset"] == "seq-colors"
    assert content["versions"]["opset"] == "20"


def test_manifest_lists_every_file_with_its_hash(small_bundle):
    _, folder = small_bundle
    manifest = read_manifest(folder)
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {FILE_NAME} | {file.path for file in manifest.files}
    for file in manifest.files:
        assert check_file(folder, file) == folder / file.path
    assert (folder / "labels.txt").read_text().splitlines() == ["red", "green", "blue", "grün"]
    assert "SmallNet" in (folder / "README.md").read_text()


def test_unknown_keys_are_ignored(content, tmp_path):
    content["later"] = {"schema": 9}
    content["files"][0]["later"] = 1
    content["classes"]["later"] = None
    assert read_manifest(put(tmp_path, content)).interface.supports == ("out", "features", "both")


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("", "damaged", "not JSON, or truncated"),
        ('{"schema": 1', "damaged", "not JSON, or truncated"),
        ("[" * 100_000, "damaged", "not JSON, or truncated"),
        ("[1]", "damaged", "must be a JSON object"),
        ("{}", "damaged", "schema is missing"),
        ('{"schema": 2}', "schema", r"has schema 2, .* up to 1. Upgrade mammoth_compiled"),
        ('{"schema": "1"}', "damaged", "schema must hold whole numbers"),
        ('{"schema": 1}', "damaged", "contract is missing"),
        (" " * (2**20 + 1), "damaged", "more than 1 MiB"),
    ],
)
def test_invalid_json_raises(tmp_path, text, code, message):
    with pytest.raises(ExportError, match=message) as caught:
        read_manifest(put(tmp_path, text))
    assert caught.value.code == code


def test_invalid_utf8_raises(tmp_path):
    (tmp_path / FILE_NAME).write_bytes(b"\xff\xfe{}")
    with pytest.raises(ExportError, match="cannot be read") as caught:
        read_manifest(tmp_path)
    assert caught.value.code == "damaged"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("contract.input.dtype", "float16", "dtype is 'float16'; valid: 'float32', 'uint8'"),
        ("contract.input.layout", "NHWC", "layout is 'NHWC'; valid: 'NCHW'"),
        ("contract.input.shape", [1, 3, 8, 6], 'shape must be \\["batch"'),
        ("contract.input.shape", ["batch", 3, 8], "three sizes"),
        ("contract.outputs.0.shape", ["batch", 0], "sizes >= 1"),
        ("contract.outputs.0.name", "logits", 'must have "out"'),
        ("contract.returnt", ["out"], "returnt must be what the outputs answer"),
        ("preprocessing.mean", [0.5], "mean has 1 entries instead of 3"),
        ("preprocessing.std", ["1", "1", "1"], "std must hold numbers"),
        ("classes.ids", [0, 1, 2], "ids has 3 entries instead of 4"),
        ("classes.ids", [0, 1, 2, -1], "whole numbers >= 0"),
        ("classes.ids", [0, 1, 2, True], "whole numbers >= 0"),
        ("classes.seen", [3], "seen are not the classes of the tasks seen"),
        ("classes.tasks", [[0, 2, 4]], "lists of 2 numbers"),
        ("classes.head", "half", "valid: 'all', 'seen', 'masked'"),
        ("classes.softmax", 1, "true or false"),
        ("files", {}, "files must be a list"),
        ("files.0", 1, r"files\[0\]: must be a JSON object"),
        ("files.0.sha256", "0" * 63, "64 hexadecimal digits"),
        ("files.0.bytes", -1, "whole numbers"),
        ("files.0.format", "exe", "format is 'exe'"),
        ("files.0.precision", KeyError, "precision is missing"),
        ("files.0.requires", {"isa": 1}, "isa must be a string"),
        ("files.0.parity", {"out": {"size": 1}}, "bound is missing"),
        ("files.1.path", "model.onnx", "lists a path twice"),
        ("golden.input", "golden/other.npy", "files does not list golden/other.npy"),
        ("golden.outputs", {}, "out is missing"),
    ],
)
def test_invalid_field_is_named(content, tmp_path, path, value, message):
    with pytest.raises(ExportError, match=message) as caught:
        read_manifest(put(tmp_path, changed(content, path, value)))
    assert caught.value.code == "damaged"
    assert "export again" in str(caught.value)


@pytest.mark.parametrize(
    "path", ["../model.onnx", "/etc/passwd", "golden/../../x", "..\\x", "C:/x", "", "a\0b"]
)
@pytest.mark.parametrize("where", ["files.0.path", "golden.input"])
def test_path_outside_the_bundle_raises(content, tmp_path, path, where):
    with pytest.raises(ExportError, match="leaves the bundle") as caught:
        read_manifest(put(tmp_path, changed(content, where, path)))
    assert caught.value.code == "path"


def test_symlink_out_of_the_bundle_raises(small_bundle, tmp_path):
    folder = shutil.copytree(small_bundle[1], tmp_path / "bundle")
    (folder / "model.onnx").rename(tmp_path / "outside.onnx")
    os.symlink("../outside.onnx", folder / "model.onnx")
    with pytest.raises(ExportError, match="leaves the bundle") as caught:
        read_manifest(folder)
    assert caught.value.code == "path"


def test_manifest_roundtrip(small_bundle):
    manifest = read_manifest(small_bundle[1])
    assert manifest.to_json() == (small_bundle[1] / FILE_NAME).read_text()
    assert manifest.interface.entries[ReturnTypes.BOTH] == ("out", "features")
    assert manifest.file("model.onnx").outputs == ("out", "features")
