"""Observers: the order of their hooks, what they get, and that they cause no host sync."""

import io
import itertools
import json
import math
import warnings
from pathlib import Path

import pytest
import torch

from mammoth_compiled import load_runner, train
from mammoth_compiled.config.schema import FilesConfig, LoggingConfig, RunConfig
from mammoth_compiled.engine import Observer, run_tasks
from mammoth_compiled.engine.observer import HOOKS
from mammoth_compiled.errors import ConfigError, ExportError, MammothError, TrainingError
from mammoth_compiled.export import export_bundle
from mammoth_compiled.observers import command_line_observers, default_observers, observer_classes
from mammoth_compiled.observers.progress import ProgressBar
from mammoth_compiled.observers.results import ResultsWriter


class Recorder(Observer):
    """Records every hook call with what the run says at that time."""

    def __init__(self):
        self.calls = []
        self.losses = []

    def begin_run(self, run):
        self.calls.append(("begin_run", run.first_task, run.num_tasks))

    def begin_task(self, run):
        self.calls.append(("begin_task", run.task, run.steps_per_epoch))

    def begin_epoch(self, run):
        self.calls.append(("begin_epoch", run.task, run.epoch))

    def end_step(self, run, loss, num_images):
        assert isinstance(loss, torch.Tensor)
        self.calls.append(("end_step", run.step, num_images))

    def read_losses(self, run, losses):
        assert run.last_loss == losses[-1]
        assert run.lr == 0.05
        self.losses += losses

    def end_epoch(self, run):
        self.calls.append(("end_epoch", run.task, run.epoch))

    def end_task(self, run, evaluation):
        assert run.results.class_il[-1] == evaluation.class_il
        self.calls.append(("end_task", run.task, len(evaluation.class_il)))

    def end_run(self, run):
        self.calls.append(("end_run", run.results.interrupted))

    def close(self, run):
        self.calls.append(("close",))


@pytest.fixture
def runner(tiny):
    def make(model="sgd", **args):
        defaults = {"seed": 0, "lr": 0.05, "batch_size": 16, "n_epochs": 2, "compile": "off"}
        return load_runner(model, "seq-tiny", {**defaults, **args})

    return make


def test_order_and_content_of_calls(runner):
    recorder = Recorder()
    train(*runner(), observers=[recorder])
    steps = [("end_step", 1, 16), ("end_step", 2, 16), ("end_step", 3, 4)]
    expected = [("begin_run", 0, 3)]
    for task in range(3):
        expected.append(("begin_task", task, 3))
        for epoch in range(2):
            expected += [("begin_epoch", task, epoch), *steps, ("end_epoch", task, epoch)]
        expected.append(("end_task", task, task + 1))
    assert recorder.calls == [*expected, ("end_run", False), ("close",)]
    assert len(recorder.losses) == 3 * 2 * 3
    assert all(math.isfinite(loss) for loss in recorder.losses)


def test_every_hook_is_called(runner):
    called = set()
    hooks = {name: lambda self, *_, name=name: called.add(name) for name in HOOKS}
    train(*runner(eval_every=2), observers=[type("All", (Observer,), hooks)()])
    assert called == set(HOOKS)


def test_several_observers_in_order(runner):
    order = []

    def named(name):
        def end_task(self, run, evaluation):
            order.append(f"{name}{run.task}")

        return type("Named", (Observer,), {"end_task": end_task})()

    train(*runner(), observers=[named("a"), named("b")])
    assert order == ["a0", "b0", "a1", "b1", "a2", "b2"]


def test_observers_change_no_numbers(runner):
    plain = train(*runner())
    watched = train(*runner(), observers=[Recorder(), ProgressBar()])
    assert watched.loss == plain.loss
    assert watched.class_il == plain.class_il


def every_observer(tmp_path):
    """Returns the observers of the package, with arguments that ask for all of them."""
    files = FilesConfig(
        savecheck="task",
        checkpoint_path=str(tmp_path),
        results_path=str(tmp_path / "results.json"),
        export=str(tmp_path / "bundle"),
        formats="safetensors",
        export_each_task=True,
        out=str(tmp_path / "run"),
        checkpoint_every="2",
    )
    config = RunConfig(files=files, logging=LoggingConfig(log="csv,jsonl"))
    return [*default_observers(config), *command_line_observers(config)]


def test_every_observer_of_the_package_changes_no_numbers(runner, tmp_path, monkeypatch):
    # Both the bar of a terminal and the lines of a file.
    monkeypatch.setattr(
        "mammoth_compiled.observers.progress.is_interactive",
        itertools.cycle((True, False)).__next__,
    )
    observers = every_observer(tmp_path)
    classes = [cls for cls in observer_classes() if cls.__module__.startswith("mammoth_compiled.")]
    assert {type(observer) for observer in observers} == {
        cls for cls in classes if cls.from_config.__func__ is not Observer.from_config.__func__
    }
    plain = train(*runner())
    model, dataset = runner()
    config = RunConfig.from_namespace(model.args)
    watched = run_tasks(model, dataset, config, observers)
    assert watched.loss == plain.loss
    assert watched.class_il == plain.class_il
    assert (tmp_path / "results.json").exists()
    assert (tmp_path / "bundle" / "manifest.json").exists()


@pytest.mark.parametrize("failures", [1, 4])
def test_a_bundle_that_cannot_be_written_ends_no_training(
    runner, tmp_path, monkeypatch, capsys, failures
):
    calls = []

    def export(*args, **kwargs):
        calls.append(1)
        if len(calls) <= failures:
            raise ExportError("cannot write bundle: No space left on device")
        return export_bundle(*args, **kwargs)

    monkeypatch.setattr("mammoth_compiled.observers.bundle.export_bundle", export)
    model, dataset = runner(
        export=str(tmp_path / "bundle"),
        formats="safetensors",
        export_each_task=True,
        checkpoint_path=str(tmp_path / "saved"),
        results_path=str(tmp_path / "results.json"),
    )
    config = RunConfig.from_namespace(model.args)
    observers = command_line_observers(config)
    if failures == 1:
        run_tasks(model, dataset, config, observers)
        assert (tmp_path / "bundle" / "manifest.json").exists()
    else:
        with pytest.raises(ExportError, match=r"No space left .* saved in .*_task3.pt; once the"):
            run_tasks(model, dataset, config, observers)
    assert "bundle after task 1: not exported: cannot write bundle" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "results.json").read_text())["class_il"]) == 3


def test_an_observer_that_the_arguments_ask_for_is_added(runner):
    class Asked(Observer):
        seen = ()

        @classmethod
        def from_config(cls, config):
            return cls() if config.experiment.n_epochs == 3 else None

        def end_task(self, run, evaluation):
            Asked.seen += (run.task,)

    train(*runner(n_epochs=2))
    assert Asked.seen == ()
    train(*runner(n_epochs=3))
    assert Asked.seen == (0, 1, 2)


def test_a_class_defined_again_replaces_the_first():
    def define():
        class Again(Observer):
            pass

        return Again

    kept = [define(), define()]
    assert [cls for cls in observer_classes() if cls.__name__ == "Again"] == kept[1:]


def test_what_is_not_an_observer_is_refused(runner):
    with pytest.raises(ConfigError, match="must be instances of Observer, got function"):
        train(*runner(), observers=[lambda run: None])


def test_close_is_called_after_an_error(runner):
    class Fails(Observer):
        def begin_epoch(self, run):
            raise RuntimeError("mine")

    recorder = Recorder()
    with pytest.raises(RuntimeError, match="mine"):
        train(*runner(), observers=[recorder, Fails()])
    assert recorder.calls[-1] == ("close",)
    assert ("end_run", False) not in recorder.calls


def test_a_diverging_run_reports_the_losses_before(runner):
    recorder = Recorder()
    recorder.read_losses = lambda run, losses: recorder.losses.extend(losses)
    args = {"backbone": "mnistmlp", "input_size": 192, "lr": 1e20}
    with pytest.raises(TrainingError):
        train(*runner(**args), observers=[recorder])
    assert all(math.isfinite(loss) for loss in recorder.losses)


def test_an_interrupted_run_ends_normally(runner, tmp_path):
    class Interrupts(Observer):
        def begin_task(self, run):
            if run.task == 1:
                raise KeyboardInterrupt

    path = tmp_path / "results.json"
    recorder = Recorder()
    results = train(*runner(), observers=[recorder, Interrupts(), ResultsWriter(path)])
    assert results.interrupted
    assert recorder.calls[-2:] == [("end_run", True), ("close",)]
    written = json.loads(path.read_text())
    assert written["interrupted"] is True
    assert len(written["class_il"]) == 1


def test_a_resumed_run_says_where_it_starts(runner, tmp_path):
    train(*runner(savecheck="task", checkpoint_path=str(tmp_path)))
    (path,) = tmp_path.glob("*_task1.pt")
    recorder = Recorder()
    train(*runner(loadcheck=str(path)), observers=[recorder])
    assert recorder.calls[0] == ("begin_run", 1, 3)
    assert recorder.calls[1] == ("begin_task", 1, 3)


def test_results_that_cannot_be_written(runner, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MammothError, match="cannot write"):
        train(*runner(), observers=[ResultsWriter(tmp_path / "file" / "results.json")])


def test_the_progress_bar_shows_loss_and_epoch(runner, monkeypatch):
    monkeypatch.setattr("mammoth_compiled.observers.progress.BAR_INTERVAL", 0)
    monkeypatch.setenv("COLUMNS", "160")
    model, dataset = runner()
    model.pbar_suffix["note"] = 7
    shown = io.StringIO()
    train(model, dataset, observers=[ProgressBar(file=shown)])
    for text in ("Task 3/3, epoch 2/2", "loss=", "lr=0.05", "note=7", "images/s=", "ETA="):
        assert text in shown.getvalue()


def test_console_prints_each_event_once(runner, capsys, tmp_path):
    args = {"savecheck": "last", "checkpoint_path": str(tmp_path)}
    train(*runner(**args))
    out = capsys.readouterr().out
    assert out.count("compile: off (--compile off)") == 1
    assert out.count("Accuracy after task") == 3
    assert out.count("checkpoint: ") == 1
    (path,) = Path(tmp_path).glob("*.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(*runner(loadcheck=str(path), lr=0.2))
    out = capsys.readouterr().out
    assert "checkpoint: resumes with lr 0.05, not 0.2" in out
    assert f"checkpoint: {path} loaded, 3 tasks done" in out
