"""The checkpoint file: files that are rejected, and failures that leave no partial file."""

import copy
import io
import os
import random
import zipfile

import pytest
import torch
import torchvision

from mammoth_compiled.checkpoint import (
    FORMAT,
    VERSION,
    add_checksum,
    load_copy,
    read_checkpoint,
    write_checkpoint,
)
from mammoth_compiled.device import random_state
from mammoth_compiled.errors import CheckpointError, MammothError

CONTENT = {
    "net": {"weight": torch.arange(4.0), "norm._extra_state": {"free": "form"}},
    "backbone": {"name": "cnn", "arguments": {"width": 4}},
    "data": {
        "name": "seq-x",
        "input_shape": [1, 8, 8],
        "mean": [0.5],
        "std": [0.25],
        "num_classes": 4,
        "class_names": ["a", "b", "c", "d"],
        "tasks": [[0, 2], [2, 4]],
        "tasks_seen": 1,
    },
    "model": {
        "name": "er",
        "state": {
            "optimizer": {
                "state": {0: {"momentum_buffer": torch.zeros(4)}},
                "param_groups": [{"params": [0], "lr": 0.1, "momentum": 0.9, "betas": [0.9, 0.99]}],
            },
            "scaler": {},
            "frozen": ["weight"],
            "parameters": {},
            "tensors": {"counts": torch.zeros(2, dtype=torch.int64)},
            "modules": {"old": {"state": {}, "like_net": True, "training": False, "frozen": []}},
            "buffers": {
                "buffer": {
                    "buffer_size": 2,
                    "num_seen_examples": 2,
                    "data": {"examples": torch.zeros(2, 1, 8, 8), "labels": torch.tensor([0, 3])},
                    "policy": "reservoir",
                    "policy_state": {},
                }
            },
            "values": {"list": [1, None], "text": "a"},
            "left_out": [],
        },
    },
    "random": random_state(),
    "args": {"lr": 0.1},
    "results": {
        "class_il": [[0.5]],
        "task_il": [[1.0]],
        "loss": [float("nan")],
        "train_s": [1.5],
        "compile_s": [0],
        "eval_s": [0.5],
        "train_images": [100],
        "notes": {"compile": False},
    },
    "tasks_done": 1,
    "compute": {
        "compile": False,
        "disabled_because": "",
        "full_batch": 8,
        "undeclared": [5],
        "steps_with": {"out 8": 3},
    },
}
BUFFER = "model.state.buffers.buffer"


def changed(field, value):
    """Returns the content with one field changed, or without it if the value is None."""
    content = copy.deepcopy(CONTENT)
    *parents, last = field.split(".")
    entry = content
    for name in parents:
        entry = entry[int(name) if isinstance(entry, (list, tuple)) else name]
    if value is None:
        del entry[last]
    else:
        entry[int(last) if isinstance(entry, list) else last] = value
    return content


def write_unchecked(path, content, version=VERSION):
    """Writes a checkpoint that may violate the schema."""
    stream = io.BytesIO()
    torch.save({"format": FORMAT, "version": version, **content}, stream)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(add_checksum(stream.getvalue()))


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
    assert torch.equal(content["net"]["weight"], torch.arange(4.0))
    assert content["model"]["state"]["values"]["list"] == [1, None]


def test_torch_reads_the_file(path):
    write_checkpoint(path, CONTENT)
    assert torch.load(path, weights_only=True)["tasks_done"] == 1


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
    write_unchecked(path, {**CONTENT, "model": Malicious(trace)})
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


@pytest.mark.parametrize("key", CONTENT)
def test_missing_entry_is_named(path, key):
    write_unchecked(path, {k: v for k, v in CONTENT.items() if k != key})
    with pytest.raises(CheckpointError, match=f"lacks {key}$"):
        read_checkpoint(path)


def test_later_version_is_rejected(path):
    write_unchecked(path, CONTENT, VERSION + 1)
    with pytest.raises(CheckpointError, match=f"version {VERSION + 1}, but this release reads"):
        read_checkpoint(path)


def test_earlier_version_is_rejected(path):
    write_unchecked(path, CONTENT, VERSION - 1)
    with pytest.raises(CheckpointError, match=f"earlier release .version {VERSION - 1}, this"):
        read_checkpoint(path)


@pytest.mark.parametrize("version", ["2", 2.0, None, True, [2]])
def test_version_of_another_type_is_rejected(path, version):
    write_unchecked(path, CONTENT, version)
    with pytest.raises(CheckpointError, match="version must be an integer"):
        read_checkpoint(path)


def test_every_single_bit_flip_is_detected(path):
    write_checkpoint(path, CONTENT)
    whole = path.read_bytes()
    chosen = random.Random(0).sample(range(8 * len(whole)), 1000)
    for bit in [*chosen, *range(8 * (len(whole) - 100), 8 * len(whole))]:
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            read_checkpoint(path)


def test_appended_bytes_are_detected(path):
    write_checkpoint(path, CONTENT)
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(CheckpointError):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("net", []),
        ("net.weight", 3),
        ("backbone", "cnn"),
        ("backbone.name", 7),
        ("backbone.arguments", [("width", 4)]),
        ("data", [1]),
        ("data.name", b"seq-x"),
        ("data.input_shape", [8, 8]),
        ("data.input_shape.0", -3),
        ("data.input_shape.1", 8.0),
        ("data.mean", "0.5"),
        ("data.mean", [0.5, 0.5]),
        ("data.mean.0", float("nan")),
        ("data.std.0", 0.0),
        ("data.std.0", -1.0),
        ("data.num_classes", True),
        ("data.num_classes", 0),
        ("data.class_names.2", 2),
        ("data.tasks", [0, 2]),
        ("data.tasks.1", [2, 10**12]),
        ("data.tasks.0", [2, 0]),
        ("data.tasks_seen", 3),
        ("model", "er"),
        ("model.name", ["er"]),
        ("model.state", []),
        ("model.state.optimizer", "sgd"),
        ("model.state.optimizer.state", []),
        ("model.state.optimizer.param_groups", {}),
        ("model.state.optimizer.param_groups.0.params", [0.5]),
        ("model.state.optimizer.param_groups.0.lr", "fast"),
        ("model.state.optimizer.param_groups.0.lr", float("nan")),
        ("model.state.optimizer.param_groups.0.momentum", -7),
        ("model.state.optimizer.param_groups.0.betas", 0.9),
        ("model.state.optimizer.param_groups.0.betas.1", 1.5),
        ("model.state.scaler", 1),
        ("model.state.frozen", "weight"),
        ("model.state.parameters", [torch.zeros(1)]),
        ("model.state.tensors.counts", [0, 0]),
        ("model.state.modules.old", {}),
        ("model.state.modules.old.training", 1),
        ("model.state.buffers.buffer", torch.zeros(2)),
        (f"{BUFFER}.buffer_size", 0),
        (f"{BUFFER}.num_seen_examples", -1),
        (f"{BUFFER}.data", []),
        (f"{BUFFER}.data.examples", torch.full((2, 1, 8, 8), float("nan"))),
        (f"{BUFFER}.data.examples", torch.zeros(2, 1, 8, 8, dtype=torch.complex64)),
        (f"{BUFFER}.data.labels", torch.tensor([0, 4])),
        (f"{BUFFER}.data.labels", torch.tensor([-(10**9), 0])),
        (f"{BUFFER}.policy", None),
        (f"{BUFFER}.policy_state", 0),
        ("model.state.values", ()),
        ("model.state.left_out", [1]),
        ("random", None),
        ("random.python", 3),
        ("random.python", (3, [0] * 5, None)),
        ("random.numpy", ("MT19937", [1], 0, 0, 0.0)),
        ("random.torch", torch.zeros(4)),
        ("random.torch", torch.zeros(4, 4, dtype=torch.uint8)),
        ("random.cuda", torch.zeros(4)),
        ("args", []),
        ("results.class_il", 0.5),
        ("results.class_il.0", [1.5]),
        ("results.task_il", [[1.0], [1.0]]),
        ("results.loss.0", "low"),
        ("results.train_s.0", -1),
        ("results.train_images.0", 1e3),
        ("results.notes", 0),
        ("tasks_done", -1),
        ("tasks_done", 2),
        ("tasks_done", "1"),
        ("compute.compile", "on"),
        ("compute.disabled_because", False),
        ("compute.full_batch", -8),
        ("compute.undeclared", {5}),
        ("compute.steps_with", {"out 8": 0.5}),
        ("compute.steps_with", {8: 3}),
    ],
)
def test_wrong_field_is_named(path, field, value):
    content = changed(field, value)
    named = "results.class_il" if (field, value) == ("tasks_done", 2) else field
    with pytest.raises(CheckpointError, match=f"cannot be saved.*: .*{named}"):
        write_checkpoint(path, content)
    assert not path.exists()
    write_unchecked(path, content)
    with pytest.raises(CheckpointError, match=f"is not a valid checkpoint: .*{named}"):
        read_checkpoint(path)


def test_masked_logits_and_ignored_labels_are_valid(path):
    content = changed(f"{BUFFER}.data.logits", torch.tensor([[0.0, -float("inf")]]))
    content["model"]["state"]["buffers"]["buffer"]["data"]["labels"][0] = -100
    assert read_checkpoint(write_checkpoint(path, content))["tasks_done"] == 1


def test_failed_write_keeps_the_old_file(path, monkeypatch):
    write_checkpoint(path, CONTENT)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(MammothError, match=r"cannot write .*run\.pt: no space"):
        write_checkpoint(path, {**CONTENT, "args": {"lr": 0.5}})
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["run.pt"]


def test_unpicklable_contents_leave_no_file(path):
    with pytest.raises(Exception, match=r"args\.function must be a number, a text or a list"):
        write_checkpoint(path, {**CONTENT, "args": {"function": lambda: 0}})
    assert not path.exists()


def test_copies_of_state_dicts_load_into_modules_with_versions():
    source, target = (torchvision.models.mnasnet0_5(num_classes=2) for _ in range(2))
    copied = {name: value.clone() for name, value in source.state_dict().items()}
    with pytest.raises(ValueError, match="version"):
        target.load_state_dict(copied)
    load_copy(target, copied)
    assert all(torch.equal(value, copied[name]) for name, value in target.state_dict().items())
