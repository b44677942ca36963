"""How long tasks are trained, which tasks are trained, and when the model is evaluated."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from killed_runs import KilledAfter

from mammoth_compiled import evaluate, load_runner, train
from mammoth_compiled.dry_run import estimate
from mammoth_compiled.engine.compute import Compute
from mammoth_compiled.engine.evaluate import evaluate_task
from mammoth_compiled.engine.fitting import steps_left
from mammoth_compiled.engine.observer import Observer
from mammoth_compiled.errors import ConfigError, DataError

STEPS_PER_EPOCH = 5  # 36 images in batches of 8
VALIDATION = {"fitting_mode": "early_stopping", "validation": 33}


class Steps(Observer):
    """Records the steps of each task, and what the run says about them."""

    def begin_run(self, run):
        self.steps, self.expected, self.left = {}, {}, []

    def begin_task(self, run):
        self.left.append(steps_left(run))

    def end_step(self, run, loss, num_images):
        self.steps.setdefault(run.task, []).append((run.epoch, run.step, num_images))

    def end_task(self, run, evaluation):
        self.expected[run.task] = (run.num_epochs, run.num_steps)


@pytest.fixture
def run(run_tiny):
    """Returns a function that trains: the recorded steps, the model, the results."""

    def run(model="sgd", **args):
        steps = Steps()
        trained, _, results = run_tiny(model, observers=[steps], **args)
        return steps, trained, results

    return run


def weights(model):
    return [tensor.clone() for tensor in model.net.state_dict().values()]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


def test_number_of_steps(run):
    steps, _, results = run(fitting_mode="iters", n_iters=7)
    task = [(0, n, 8) for n in (1, 2, 3, 4)] + [(0, 5, 4), (1, 1, 8), (1, 2, 8)]
    assert steps.steps == {0: task, 1: task, 2: task}
    assert steps.expected[0] == (2, 7)
    assert results.train_images == [52, 52, 52]


@pytest.mark.parametrize(
    ("model", "args"),
    [
        ("sgd", {}),
        ("sgd", {"drop_last": 1, "n_epochs": 2}),
        ("sgd", {"debug_mode": 1, "batch_size": 4}),
        ("sgd", {"start_from": 1}),
        ("joint", {}),
        ("gdumb", {"buffer_size": 60, "n_epochs": 2}),  # 36, 60 and 60 images
        ("icarl", {"buffer_size": 24}),  # 36, 60 and 60
    ],
)
def test_steps_left_are_those_that_follow(run, tiny, monkeypatch, model, args):
    planned = []
    monkeypatch.setattr(Compute, "decide", lambda *given: planned.append(given[-2]))
    steps, _, _ = run(model, **args)
    counts = [len(steps.steps[task]) for task in sorted(steps.steps)]
    assert steps.left == [sum(counts[k:]) for k in range(len(counts))]
    assert planned == [sum(counts)]
    # A dry run, in which nothing but the first task is begun, counts the same.
    args = {"seed": 0, "batch_size": 8, "n_epochs": 1, "compile": "off", **args}
    assert estimate(*load_runner(model, "seq-tiny", args)).split()[0] == str(sum(counts))


def test_steps_are_those_of_epochs(run):
    whole = run(n_epochs=2)
    steps = run(fitting_mode="iters", n_iters=2 * STEPS_PER_EPOCH)
    assert same(whole[1], steps[1])
    assert whole[0].expected == steps[0].expected == dict.fromkeys(range(3), (2, 10))


def test_cosine_ends_with_the_last_of_the_steps(run):
    whole = run(n_epochs=2, lr_scheduler="cosine")
    steps = run(fitting_mode="iters", n_iters=2 * STEPS_PER_EPOCH, lr_scheduler="cosine")
    assert same(whole[1], steps[1])


def test_minutes(run, monkeypatch):
    """Each look at the clock takes a second."""
    seconds = SimpleNamespace(perf_counter=itertools.count().__next__)
    monkeypatch.setattr("mammoth_compiled.engine.clock.time", seconds)
    steps, _, _ = run(fitting_mode="time", n_minutes=0.2, eval_every=3)
    assert steps.expected[0] == (None, None)
    counts = [len(task) for task in steps.steps.values()]
    assert counts == [counts[0]] * 3
    assert 6 <= counts[0] <= 12


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_early_stopping(run, monkeypatch, metric):
    """Values of six epochs of each task; the third is the best, after which two do not improve."""
    values = itertools.cycle([0.5, 0.4, 0.2, 0.3, 0.2])
    kept = []

    def measure(model, dataset):
        value = next(values)
        kept.append(weights(model))
        return (value, 0.0) if metric == "loss" else (0.0, 1 - value)

    monkeypatch.setattr("mammoth_compiled.engine.fitting.evaluate_task", measure)
    steps, model, _ = run(
        **VALIDATION, early_stopping_patience=2, early_stopping_metric=metric, lr=0.05
    )
    assert {task: steps.steps[task][-1][0] for task in steps.steps} == {0: 4, 1: 4, 2: 4}
    assert steps.expected[0] == (None, None)
    assert len(kept) == 15
    for got, best, last in zip(weights(model), kept[12], kept[14], strict=True):
        assert torch.equal(got, best)
        assert got.ndim != 4 or not torch.equal(got, last)


def test_early_stopping_evaluates_the_task(run, tiny):
    steps, _, results = run(**VALIDATION, early_stopping_patience=1, stop_after=1)
    epochs = steps.steps[0][-1][0] + 1
    assert epochs >= 2
    model, dataset = load_runner("sgd", "seq-tiny", {"validation": 33, "compile": "off"})
    train(model, dataset)
    loss, accuracy = evaluate_task(model, dataset)
    assert accuracy == evaluate(model, dataset).class_il[-1]
    assert loss > 0
    assert results.eval_s[0] > 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"fitting_mode": "iters"}, "--fitting_mode iters and --n_iters go together"),
        ({"n_iters": 3}, "--fitting_mode iters and --n_iters go together"),
        ({"fitting_mode": "time"}, "--fitting_mode time and --n_minutes go together"),
        ({"fitting_mode": "early_stopping"}, "needs images to evaluate on: give --validation"),
        (
            {**VALIDATION, "lr_scheduler": "cosine"},
            "--lr_scheduler cosine needs a known number of epochs, which --fitting_mode early",
        ),
        ({**VALIDATION, "online": 1}, "leave --fitting_mode early_stopping out"),
        ({"start_from": 2, "stop_after": 2}, "--stop_after 2 leaves no task after --start_from 2"),
        ({"joint": 1, "eval_future": 1}, "--eval_future has no meaning in joint training"),
    ],
)
def test_arguments_that_do_not_fit_raise(tiny, args, message):
    with pytest.raises(ConfigError, match=message):
        load_runner("sgd", "seq-tiny", args)


@pytest.mark.parametrize(("name", "most"), [("start_from", 2), ("stop_after", 3)])
def test_more_tasks_than_the_dataset_has_raise(run_tiny, name, most):
    with pytest.raises(
        ConfigError, match=f"--{name} 4: .*'seq-tiny' has 3 tasks, so at most {most}"
    ):
        run_tiny(**{name: 4})


def test_stop_after(run, tmp_path):
    whole = run("er", buffer_size=9)
    args = {"buffer_size": 9, "resume": 1, "checkpoint_path": str(tmp_path)}
    steps, _, results = run("er", stop_after=2, **args)
    assert list(steps.steps) == [0, 1]
    assert results.class_il == whole[2].class_il[:2]
    # The run goes on where it stopped.
    steps, model, results = run("er", **args)
    assert list(steps.steps) == [2]
    assert results.class_il == whole[2].class_il
    assert same(model, whole[1])


def test_start_from(run, tmp_path):
    args = {"start_from": 1, "checkpoint_path": str(tmp_path)}
    steps, model, results = run(savecheck="task", **args)
    assert list(steps.steps) == [1, 2]
    assert [len(row) for row in results.class_il] == [0, 2, 3]
    assert results.train_images == [0, 36, 36]
    assert "nan" not in results.table()
    assert len(results.to_dataframe()) == 5
    resumed = run(loadcheck=str(tmp_path / "sgd_seq-tiny_tiny-net_seed0_task2.pt"), **args)
    assert list(resumed[0].steps) == [2]
    assert same(model, resumed[1])


def test_inference_only_evaluates_a_checkpoint(run, tmp_path):
    args = {"checkpoint_path": str(tmp_path)}
    _, model, whole = run(savecheck="task", **args)
    path = str(tmp_path / "sgd_seq-tiny_tiny-net_seed0_task3.pt")
    steps, loaded, results = run(inference_only=1, loadcheck=path, eval_every=1, **args)
    assert steps.steps == {}
    assert results.class_il == whole.class_il
    assert (results.confusion, results.ece) == (whole.confusion, whole.ece)
    assert same(model, loaded)


def test_inference_only_without_a_checkpoint(run, tiny):
    steps, model, results = run(inference_only=1)
    assert steps.steps == {}
    assert [len(row) for row in results.class_il] == [1, 2, 3]
    assert results.train_images == [0, 0, 0]
    initial, _ = load_runner("sgd", "seq-tiny", {"seed": 0})
    assert same(model, initial)


@pytest.mark.parametrize("args", [{"eval_every": 2}, {"eval_epochs": 1}, {"eval_future": 1}])
@pytest.mark.parametrize("dataset", ["seq-tiny-augmented"])
def test_evaluations_do_not_change_training(run, dataset, args):
    plain = run("er", dataset=dataset, buffer_size=9, n_epochs=2)
    with_evaluations = run("er", dataset=dataset, buffer_size=9, n_epochs=2, **args)
    assert same(plain[1], with_evaluations[1])
    assert plain[2].class_il == with_evaluations[2].class_il


def test_evaluations_within_tasks(run):
    _, _, results = run("er", buffer_size=9, n_epochs=2, eval_every=4, eval_epochs=2)
    places = [(point["task"], point["epoch"], point["step"]) for point in results.curve]
    task = [(0, 4), (1, 8), (1, 10)]
    assert places == [(t, epoch, step) for t in range(3) for epoch, step in task]
    assert [len(point["class_il"]) for point in results.curve] == [1] * 3 + [2] * 3 + [3] * 3
    # The last step of a task and the evaluation after the task see the same model.
    for t in range(3):
        last = results.curve[3 * t + 2]
        assert last["class_il"] == results.class_il[t]
        assert last["loss"] == pytest.approx(results.loss[t])
    rows = results.accuracies()
    assert len(rows) == 12
    assert results.summary()["worst_case_class_il"] <= results.accuracy["class_il"] + 1


def test_future_tasks(run):
    _, _, results = run(eval_future=1, n_epochs=4)
    assert [len(row) for row in results.future_class_il] == [2, 1, 0]
    assert len(results.initial_task_il) == 3
    # The head of a class that was never seen is worse than that of one that was.
    assert all(a < 0.7 for row in results.future_class_il for a in row)
    expected = [results.future_task_il[j - 1][0] - results.initial_task_il[j] for j in (1, 2)]
    assert results.summary()["forward_transfer_task_il"] == pytest.approx(sum(expected) / 2)


def test_baseline_of_a_resumed_run(run, tmp_path):
    args = {"eval_future": 1, "checkpoint_path": str(tmp_path)}
    _, _, whole = run(savecheck="task", **args)
    path = str(tmp_path / "sgd_seq-tiny_tiny-net_seed0_task1.pt")
    _, _, resumed = run(loadcheck=path, **args)
    assert resumed.initial_class_il == whole.initial_class_il
    assert resumed.future_class_il == whole.future_class_il


def test_drop_last(run):
    steps, _, results = run(drop_last=1, n_epochs=2)
    assert [step[1:] for step in steps.steps[0]] == 2 * [(n, 8) for n in (1, 2, 3, 4)]
    assert results.train_images == [64, 64, 64]
    assert steps.expected[0] == (2, 8)


def test_drop_last_that_leaves_nothing_raises(run_tiny):
    message = r"has 36 images in task 1, fewer than --batch_size 64, so that --drop_last 1 leaves"
    with pytest.raises(DataError, match=message):
        run_tiny(drop_last=1, batch_size=64)


def test_notes_are_kept(run):
    assert run(notes="third attempt", stop_after=1)[2].config["notes"] == "third attempt"


def test_name_of_checkpoints(run, tmp_path):
    run(ckpt_name="mine", savecheck="last", checkpoint_path=str(tmp_path))
    assert [path.name for path in tmp_path.glob("*.pt")] == ["mine_task3.pt"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"ckpt_name": "a/b"}, "must be a name without /"),
        ({"checkpoint_every": "0"}, "must be a number of steps"),
        ({"checkpoint_every": "5x"}, "such as 500 or 10m; got '5x'"),
        ({"checkpoint_every": "m"}, "must be a number of steps"),
    ],
)
def test_invalid_names_and_intervals_raise(tiny, args, message):
    with pytest.raises(ConfigError, match=message):
        load_runner("sgd", "seq-tiny", args)


@pytest.mark.parametrize(
    "args",
    [
        {"fitting_mode": "iters", "n_iters": 7},
        {**VALIDATION, "early_stopping_patience": 1, "early_stopping_metric": "accuracy"},
        {"eval_every": 3, "n_epochs": 2},
        {"drop_last": 1, "n_epochs": 2},
        {"start_from": 1},
    ],
    ids=lambda args: next(iter(args)),
)
def test_interrupted_run_ends_with_the_same_bits(run, run_tiny, tmp_path, args):
    args = {"buffer_size": 9, **args}
    whole = run("er", **args)
    args |= {"checkpoint_every": "1", "resume": 1, "checkpoint_path": str(tmp_path / "saved")}
    for step in (2, 5):
        with pytest.raises(KilledAfter.Killed):
            run_tiny("er", observers=[KilledAfter(1, step)], **args)
    resumed = run("er", **args)
    assert resumed[0].steps.get(1, []) == whole[0].steps[1][5:]
    assert same(resumed[1], whole[1])
    assert resumed[2].class_il == whole[2].class_il
    assert resumed[2].curve == whole[2].curve
