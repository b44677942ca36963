"""State in a checkpoint that does not fit: refused before it is used, by the name of the tensor."""

import copy

import pytest
import torch
from hostile_inputs.binaries import endless

from mammoth_compiled import load_runner, train
from mammoth_compiled.checkpoint import add_checksum, pack, read_checkpoint
from mammoth_compiled.checkpoint.layout import layout
from mammoth_compiled.errors import CheckpointError

ARGS = {"backbone": "tiny-net", "compile": "off", "lr": 0.1, "seed": 0, "batch_size": 8}


@pytest.fixture(scope="module")
def saved():
    """Contents of checkpoints by model, each made once."""
    return {}


@pytest.fixture
def resume(tiny, saved, tmp_path):
    """Returns a function that changes a checkpoint, with its layout, and resumes from it."""

    def run(model, change, keep_layout=False, **args):
        args = {**ARGS, **args}
        if model == "er":
            args["buffer_size"] = 12
        if model not in saved:
            files = {"savecheck": "task", "checkpoint_path": str(tmp_path), "stop_after": 1}
            files |= {"checkpoint_every": "2"}
            train(*load_runner(model, "seq-tiny", {**args, **files}))
            (path,) = tmp_path.glob("*_task1.pt")
            saved[model] = read_checkpoint(path)
        content = copy.deepcopy(saved[model])
        change(content)
        if not keep_layout:
            content["layout"] = layout(content)
        path = tmp_path / "changed.pt"
        path.write_bytes(add_checksum(pack(content)))
        train(*load_runner(model, "seq-tiny", {**args, "loadcheck": str(path), "stop_after": 2}))

    return run


def optimizer(content):
    return content["model"]["state"]["optimizer"]


def buffer(content):
    return content["model"]["state"]["buffers"]["buffer"]


def replace(mapping, name, function):
    mapping[name] = function(mapping[name])


OPTIMIZER = {
    "shape": (lambda s: replace(s["state"][0], "exp_avg", lambda t: t[:1]), "state.0.exp_avg must"),
    "dtype": (lambda s: replace(s["state"][0], "exp_avg", lambda t: t.long()), "exp_avg must be"),
    "missing": (lambda s: s["state"][1].pop("exp_avg_sq"), "state.1 lacks exp_avg_sq"),
    "no tensor": (lambda s: replace(s["state"][0], "exp_avg", lambda t: 1.0), "must be a tensor"),
    "step": (lambda s: replace(s["state"][0], "step", lambda t: torch.ones(3)), "step must be one"),
    "extra": (lambda s: s["state"].update({99: {}}), "state.99 belongs to none"),
    "group": (lambda s: s["param_groups"][0].pop("betas"), "param_groups.0 lacks betas"),
    "groups": (lambda s: s["param_groups"].pop(), "has parameter groups of"),
    "twice": (lambda s: s["param_groups"][0]["params"].__setitem__(0, 1), "twice"),
}
BUFFER = {
    "rows": (lambda s: replace(s["data"], "examples", lambda t: t[:3]), "examples must have 12"),
    "dtype": (lambda s: replace(s["data"], "labels", lambda t: t.int()), "labels must be torch.in"),
    "missing": (lambda s: s["data"].pop("examples"), "data lacks examples"),
    "policy": (lambda s: s["policy_state"].pop("seen"), "policy_state lacks seen"),
    "shape": (
        lambda s: replace(s["policy_state"], "seen", lambda t: t.repeat(4)),
        r"policy_state.seen must be torch.int64 \[\]",
    ),
}


@pytest.mark.parametrize("what", OPTIMIZER)
def test_optimizer_state(resume, what):
    change, message = OPTIMIZER[what]
    with pytest.raises(CheckpointError, match=f"does not fit SGD.opt: .*{message}"):
        resume("sgd", lambda content: change(optimizer(content)), optimizer="adam")


@pytest.mark.parametrize("what", BUFFER)
def test_buffer_state(resume, what):
    change, message = BUFFER[what]
    with pytest.raises(CheckpointError, match=message):
        resume("er", lambda content: change(buffer(content)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("python", (3, [*range(624), 9999], None)),
        ("numpy", ("MT19937", torch.zeros(3, dtype=torch.int64), 0, 0, 0.0)),
        ("torch", torch.zeros(7, dtype=torch.uint8)),
    ],
)
def test_random_state(resume, name, value):
    with pytest.raises(CheckpointError, match=rf"not a valid checkpoint: random.{name} must be"):
        resume("er", lambda content: content["random"].update({name: value}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s["buffers"]["buffer"]["data"].pop("labels"),
            "lacks model.state.buffers.buffer.data.labels, which the run saved",
        ),
        (lambda s: s["values"].update(other=1), "model.state.values.other was added"),
        (
            lambda s: replace(s["buffers"]["buffer"]["data"], "examples", lambda t: t.double()),
            "examples must be torch.float32 .*, as saved, got torch.float64",
        ),
    ],
)
def test_state_that_only_the_method_knows(resume, change, message):
    with pytest.raises(CheckpointError, match=message):
        resume("er", lambda content: change(content["model"]["state"]), keep_layout=True)


@pytest.mark.parametrize("what", endless())
def test_values_without_end(resume, what):
    values = {"x": endless()[what]}
    with pytest.raises(CheckpointError, match="contains too many lists and dictionaries, or itse"):
        resume("er", lambda content: content["args"].update(values), keep_layout=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["within"].update(step=99, task_step=99), "within.step must be at most 5"),
        (lambda c: c["within"].update(step=4, task_step=3), "within.step must be at most task_ste"),
        (lambda c: c["within"].update(epoch=7), "within.epoch must be at most 0, got 7"),
        (lambda c: c["within"].update(epochs_scheduled=77), "epochs_scheduled must be at most"),
    ],
)
def test_position_out_of_range(tiny, tmp_path, change, message):
    files = {"checkpoint_path": str(tmp_path), "checkpoint_every": "2", "savecheck": "last"}
    model, dataset = load_runner("sgd", "seq-tiny", {**ARGS, **files})
    observe, steps = model.meta_observe, []

    def stop(*args, **kwargs):
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return observe(*args, **kwargs)

    model.meta_observe = stop
    train(model, dataset)
    (path,) = tmp_path.glob("*_step2.pt")
    content = read_checkpoint(path)
    change(content)
    content["layout"] = layout(content)
    path.write_bytes(add_checksum(pack(content)))
    with pytest.raises(CheckpointError, match=message):
        train(*load_runner("sgd", "seq-tiny", {**ARGS, "loadcheck": str(path)}))
