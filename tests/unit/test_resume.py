"""Resuming: the newest valid checkpoint of a configuration, and arguments that differ from it."""

import signal
from argparse import Namespace

import pytest

from mammoth_compiled.config import RunConfig
from mammoth_compiled.engine.checkpoint_files import differences
from mammoth_compiled.engine.observer import Observer
from mammoth_compiled.errors import CheckpointError, ConfigError

ARGS = {"alpha": 0.5, "buffer_size": 9}


class StopsIn(Observer):
    """Interrupts the run in a step of the given task."""

    def __init__(self, task):
        self.task = task

    def end_step(self, run, loss, num_images):
        if run.task == self.task:
            signal.raise_signal(signal.SIGINT)


class Recorder(Observer):
    """Records the first task that the run trains."""

    def begin_run(self, run):
        self.first_task = run.first_task
        self.messages = run.resume_messages


@pytest.fixture
def run(run_tiny, tmp_path):
    """Returns a function that trains with `--resume`: the results, the first task, messages."""

    def run(observers=(), model="der", **args):
        recorder = Recorder()
        args = {**ARGS, "resume": 1, "checkpoint_path": str(tmp_path / "saved"), **args}
        _, _, results = run_tiny(model, observers=[recorder, *observers], **args)
        return results, recorder.first_task, recorder.messages

    return run


@pytest.fixture
def checkpoint(tmp_path):
    return lambda task: tmp_path / "saved" / f"der_seq-tiny_tiny-net_seed0_task{task}.pt"


def test_first_run_starts_from_scratch_and_saves_each_task(run, tmp_path, checkpoint, capsys):
    _, first_task, messages = run()
    assert first_task == 0
    expected = f"none of this configuration in {tmp_path}/saved: starting with task 1"
    assert messages == [expected]
    assert f"checkpoint: {expected}\n" in capsys.readouterr().out
    assert all(checkpoint(task).exists() for task in (1, 2, 3))


@pytest.mark.parametrize("task", [1, 2])
def test_interrupted_run_resumes_to_equal_results(run, run_tiny, checkpoint, capsys, task):
    whole = run_tiny("der", **ARGS)[2]
    assert run(observers=[StopsIn(task)])[0].interrupted
    capsys.readouterr()
    resumed, first_task, messages = run()
    assert (first_task, messages) == (task, [])
    assert f"checkpoint: {checkpoint(task)} loaded, {task} tasks done" in capsys.readouterr().out
    assert resumed.class_il == whole.class_il
    assert resumed.loss == whole.loss


def test_finished_run_trains_nothing(run):
    whole = run()[0]
    again, first_task, _ = run()
    assert first_task == 3
    assert again.class_il == whole.class_il


def test_damaged_checkpoint_is_skipped(run, checkpoint):
    whole = run()[0]
    content = bytearray(checkpoint(3).read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint(3).write_bytes(content)
    checkpoint(2).write_bytes(b"")
    resumed, first_task, messages = run()
    assert first_task == 1
    assert len(messages) == 2
    assert messages[0].startswith(f"not used: {checkpoint(3)} is damaged: its checksum")
    assert messages[1] == f"not used: {checkpoint(2)} is truncated or not a checkpoint"
    assert resumed.class_il == whole.class_il


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"alpha": 0.25}, "--alpha 0.5 -> 0.25"),
        ({"batch_size": 9, "lr": 0.01}, "--batch_size 8 -> 9, --lr 0.03 -> 0.01"),
        ({"optim_mom": 0.5}, "--optim_mom 0.0 -> 0.5"),
        ({"buffer_size": 12}, "--buffer_size 9 -> 12"),
    ],
)
def test_another_configuration_is_not_resumed(run, checkpoint, change, shown):
    run()
    saved = checkpoint(3).read_bytes()
    changed = {"lr": 0.03, "minibatch_size": 8, **change}
    _, first_task, messages = run(**changed)
    assert first_task == 0
    assert any(m.startswith(f"not used: {checkpoint(3)} is of another") for m in messages)
    assert any(f"({shown})" in m for m in messages), messages
    kept = checkpoint("3_kept1")
    assert kept.read_bytes() == saved
    assert run()[1] == 3, "both configurations can be resumed"
    assert run(**changed)[1] == 3
    assert kept.read_bytes() == saved


@pytest.mark.parametrize("change", [{"seed": 1}, {"dataset": "seq-tiny-augmented"}])
def test_checkpoints_of_other_runs_are_no_candidates(run, change):
    run()
    _, first_task, messages = run(**change)
    assert (first_task, len(messages)) == (0, 1)


def test_files_and_device_may_change(run, tmp_path):
    run()
    assert run(compile="auto", device="cpu", savecheck="last", data_dir=str(tmp_path))[1] == 3


def test_differing_arguments_are_announced(run_tiny, run, checkpoint, capsys):
    run(optim_mom=0.5)
    capsys.readouterr()
    changes = {"alpha": 0.25, "batch_size": 9, "seed": 4, "lr": 0.5, "buffer_size": 9}
    run_tiny("der", **changes, loadcheck=str(checkpoint(2)))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("checkpoint")]
    assert "checkpoint: --alpha 0.5 -> 0.25" in lines
    assert "checkpoint: --batch_size 8 -> 9" in lines
    assert "checkpoint: keeps --seed 0, not 4" in lines
    assert "checkpoint: keeps --optim_mom 0.5, not 0.0" in lines
    assert any(line.startswith("checkpoint: resumes with lr") for line in lines)


def test_other_tasks_are_refused(run_tiny, run, tiny, checkpoint, monkeypatch):
    run()
    monkeypatch.setattr(tiny.Dataset, "N_CLASSES_PER_TASK", [3, 1, 2])
    with pytest.raises(CheckpointError, match=r"with tasks \[\[0, 2\].*this run has \[\[0, 3\]"):
        run_tiny("der", **ARGS, loadcheck=str(checkpoint(2)))


def test_resume_and_loadcheck_exclude_each_other(run):
    with pytest.raises(ConfigError, match="--resume and --loadcheck exclude each other"):
        run(loadcheck="x.pt")


def test_lists_and_tuples_are_equal():
    config = RunConfig.from_namespace
    saved = {"lr_milestones": (1, 2), "unknown": 3, "device": "cuda"}
    assert differences(config(Namespace(lr_milestones=[1, 2], device="cpu")), saved) == []
    (difference,) = differences(config(Namespace(lr_milestones=[1])), saved)
    assert str(difference) == "--lr_milestones (1, 2) -> [1]"
