"""Measures of evaluations and runs, against values worked out by hand and against torchmetrics."""

import builtins
import math

import pytest
import torch
from torch.nn import functional as F
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
)

from mammoth_compiled.engine.score_counts import ScoreCounts
from mammoth_compiled.errors import MammothError
from mammoth_compiled.metrics import (
    anytime_average,
    average_incremental,
    backward_transfer,
    expected_calibration_error,
    forgetting,
    forgetting_per_task,
    forward_transfer,
    learning_accuracy,
    micro_accuracy,
    minimum_accuracy,
    per_class_accuracy,
    recency_bias,
    worst_case_accuracy,
)
from mammoth_compiled.observers.console import Console, FinalTable
from mammoth_compiled.report import load
from mammoth_compiled.results import Results
from mammoth_compiled.types import Evaluation

MATRIX = [[0.8], [0.9, 0.8], [0.5, 0.6, 0.7]]
# The run started with task 2.
STARTED_LATER = [[], [0.9, 0.8], [0.5, 0.6, 0.7]]


def test_average_incremental():
    assert average_incremental(MATRIX) == pytest.approx((0.8 + 0.85 + 0.6) / 3)
    assert average_incremental(STARTED_LATER) == pytest.approx((0.85 + 0.6) / 2)


def test_learning_accuracy():
    assert learning_accuracy(MATRIX) == pytest.approx((0.8 + 0.8 + 0.7) / 3)
    assert learning_accuracy(STARTED_LATER) == pytest.approx((0.8 + 0.7) / 2)
    assert learning_accuracy([[0.5, 0.7]]) is None  # joint training


def test_forgetting_of_each_task():
    assert forgetting_per_task(MATRIX) == pytest.approx({0: 0.4, 1: 0.2})
    assert forgetting_per_task([]) == {}


def test_tasks_without_evaluation_are_left_out():
    assert forgetting(STARTED_LATER) == pytest.approx((0.4 + 0.2) / 2)
    assert backward_transfer(STARTED_LATER) == pytest.approx(0.6 - 0.8)


def test_forward_transfer():
    future, initial = [[0.4, 0.3], [0.6], []], [0.5, 0.3, 0.2]
    assert forward_transfer(future, initial) == pytest.approx(((0.4 - 0.3) + (0.6 - 0.2)) / 2)
    assert forward_transfer([[], [], []], []) is None


def test_stability_gap():
    # Task 1 drops to 0.1 while task 2 is trained on, and recovers.
    rows = [[0.9], [0.1, 0.5], [0.7, 0.8], [0.6, 0.4, 0.9], [0.8, 0.6, 1.0]]
    assert minimum_accuracy(rows) == pytest.approx((0.1 + 0.4) / 2)
    assert worst_case_accuracy(rows) == pytest.approx(1.0 / 3 + 2 / 3 * 0.25)
    assert anytime_average(rows) == pytest.approx((0.9 + 0.3 + 0.75 + 1.9 / 3 + 0.8) / 5)


@pytest.mark.parametrize("rows", [[], [[0.5]]])
def test_no_worst_case_before_the_second_task(rows):
    assert minimum_accuracy(rows) is None
    assert worst_case_accuracy(rows) is None


def test_recency_bias():
    confusion = [[5, 0, 3], [1, 3, 0], [0, 2, 6]]
    assert recency_bias(confusion, first_class=2) == pytest.approx(3 / 12)
    assert recency_bias(confusion, first_class=0) is None


def test_calibration_error_without_images():
    assert math.isnan(expected_calibration_error([(0, 0, 0.0)]))


@pytest.fixture
def counted():
    """Scores of 7 classes, 5 of them seen, as two tasks; and what is counted."""
    generator = torch.Generator().manual_seed(1)
    scores = 3 * torch.randn(300, 7, generator=generator)
    labels = torch.randint(5, (300,), generator=generator)
    counts = ScoreCounts(7, torch.device("cpu"))
    first = labels < 2
    order = torch.cat([torch.nonzero(first)[:, 0], torch.nonzero(~first)[:, 0]])
    scores, labels = scores[order], labels[order]
    split = int(first.sum())
    for part, own in ((slice(0, split), (0, 2)), (slice(split, None), (2, 5))):
        total = F.cross_entropy(scores[part], labels[part], reduction="sum")
        loss = torch.stack([total, torch.tensor(float(len(labels[part])))])
        counts.add(scores[part], labels[part], loss, own, end=5, is_seen=True)
    return scores, labels, split, counts.read()


def test_accuracies_equal_torchmetrics(counted):
    scores, labels, split, (tasks, _, _) = counted
    assert [task.images for task in tasks] == [split, 300 - split]
    for task, part, (first, end) in (
        (tasks[0], slice(0, split), (0, 2)),
        (tasks[1], slice(split, None), (2, 5)),
    ):
        accuracy = multiclass_accuracy(scores[part, :5], labels[part], 5, average="micro")
        assert task.class_il == pytest.approx(accuracy.item())
        own = multiclass_accuracy(
            scores[part, first:end], labels[part] - first, end - first, average="micro"
        )
        assert task.task_il == pytest.approx(own.item())
        assert task.top5 == 1.0
        mean = F.cross_entropy(scores[part], labels[part]).item()
        assert task.loss / task.scored == pytest.approx(mean)


def test_top5_equals_torchmetrics():
    generator = torch.Generator().manual_seed(2)
    scores = torch.randn(200, 9, generator=generator)
    labels = torch.randint(8, (200,), generator=generator)
    counts = ScoreCounts(9, torch.device("cpu"))
    counts.add(scores, labels, torch.zeros(2), (0, 8), end=8, is_seen=True)
    top5 = multiclass_accuracy(scores[:, :8], labels, 8, average="micro", top_k=5)
    assert 0.4 < top5 < 0.9
    assert counts.read()[0][0].top5 == pytest.approx(top5.item())


def test_equal_scores_count_in_the_order_of_argmax():
    counts = ScoreCounts(7, torch.device("cpu"))
    labels = torch.arange(7)
    counts.add(torch.zeros(7, 7), labels, torch.zeros(2), (0, 7), end=7, is_seen=True)
    nothing = torch.full((7, 7), math.nan)
    counts.add(nothing, labels, torch.zeros(2), (0, 7), end=7, is_seen=True)
    constant, undefined = counts.read()[0]
    assert (constant.class_il, constant.top5) == (1 / 7, 5 / 7)
    assert undefined.top5 == 0


def test_confusion_equals_torchmetrics(counted):
    scores, labels, _, (_, confusion, _) = counted
    expected = multiclass_confusion_matrix(scores[:, :5], labels, 5)
    assert [row[:5] for row in confusion[:5]] == expected.tolist()
    assert sum(map(sum, confusion)) == 300
    micro = multiclass_accuracy(scores[:, :5], labels, 5, average="micro")
    assert micro_accuracy(confusion) == pytest.approx(micro.item())
    per_class = multiclass_accuracy(scores[:, :5], labels, 5, average="none")
    assert per_class_accuracy(expected.tolist()) == pytest.approx(per_class.tolist())


def test_calibration_error_equals_torchmetrics(counted):
    scores, labels, _, (_, _, bins) = counted
    expected = multiclass_calibration_error(scores[:, :5].softmax(1), labels, 5, n_bins=15)
    assert expected > 0.1
    assert expected_calibration_error(bins) == pytest.approx(expected.item(), rel=1e-5)


def test_minus_infinity_marks_unseen_classes():
    scores = torch.tensor([[2.0, 0.0, -math.inf], [-math.inf, 1.0, -math.inf]])
    counts = ScoreCounts(3, torch.device("cpu"))
    counts.add(scores, torch.tensor([0, 0]), torch.zeros(2), (0, 3), end=3, is_seen=True)
    (task,), confusion, bins = counts.read()
    assert (task.class_il, confusion[0]) == (0.5, [1, 1, 0])
    sure = torch.tensor([2.0, 0.0]).softmax(0)[0].item()
    assert expected_calibration_error(bins) == pytest.approx(((1 - sure) + 1) / 2)


def test_future_tasks_leave_the_confusion_matrix_alone():
    counts = ScoreCounts(4, torch.device("cpu"))
    counts.add(torch.eye(4)[:2], torch.arange(2), torch.zeros(2), (0, 2), end=2, is_seen=True)
    counts.add(torch.eye(4)[2:], torch.arange(2) + 2, torch.zeros(2), (2, 4), 4, is_seen=False)
    tasks, confusion, bins = counts.read()
    assert [task.class_il for task in tasks] == [1.0, 1.0]
    assert sum(map(sum, confusion)) == sum(n for n, _, _ in bins) == 2


def test_results_of_a_run(run_tiny):
    _, dataset, results = run_tiny("er", buffer_size=9)
    images = [len(loader.dataset) for loader in dataset.test_loaders]
    assert [len(row) for row in results.top5] == [1, 2, 3]
    assert [len(row) for row in results.per_class] == [2, 4, 6]
    assert sum(map(sum, results.confusion)) == sum(images)
    # Tasks have equally many images of each class.
    last = results.per_class[-1]
    assert [(a + b) / 2 for a, b in zip(last[::2], last[1::2], strict=True)] == pytest.approx(
        results.class_il[-1]
    )
    assert results.recency_bias[0] is None
    assert all(0 <= value <= 1 for value in [*results.recency_bias[1:], *results.ece])
    assert all(value > 2**20 for value in results.peak_memory)
    assert results.future_class_il == [[], [], []]
    summary = results.summary()
    assert summary["forward_transfer_task_il"] is None
    assert summary["anytime_average_class_il"] == summary["average_incremental_class_il"]
    assert summary["learning_accuracy_task_il"] == pytest.approx(
        sum(results.task_il[t][t] for t in range(3)) / 3
    )


@pytest.fixture
def results():
    results = Results()
    for t, row in enumerate(MATRIX):
        evaluation = Evaluation(row, row, loss=0.5, top5=row, confusion=[[1]], ece=0.25)
        results.add(evaluation, train_s=1.0, eval_s=0.5, images=10 + t, peak_memory=7)
    results.curve = [
        {"task": 1, "epoch": 0, "step": 4, "class_il": [0.1, 0.2], "task_il": [0.3, 0.4], "loss": 1}
    ]
    return results


def test_accuracies_are_in_order_of_time(results):
    assert results.accuracies() == [[0.8], [0.1, 0.2], [0.9, 0.8], [0.5, 0.6, 0.7]]
    assert results.accuracies("task_il")[1] == [0.3, 0.4]


def test_dataframe_of_accuracies(results):
    frame = results.to_dataframe()
    assert list(frame.columns) == ["after_task", "task", "class_il", "task_il", "top5"]
    assert len(frame) == 6
    assert frame.query("after_task == 2 and task == 1").class_il.item() == 0.6


def test_dataframe_of_tasks(results):
    frame = results.to_dataframe("task")
    assert frame.train_images.tolist() == [10, 11, 12]
    assert frame.class_il.tolist() == pytest.approx([0.8, 0.85, 0.6])
    assert frame.recency_bias.tolist() == [None] * 3


def test_measures_after_each_task_end_with_the_summary(results):
    results.initial_class_il = results.initial_task_il = [0.2, 0.2, 0.2]
    results.future_class_il = results.future_task_il = [[0.3, 0.1], [0.6], []]
    frame, summary = results.to_dataframe("task"), results.summary()
    # By hand, from `MATRIX` and an evaluation in task 2 with the accuracies 0.1 and 0.2.
    by_hand = {
        "average_incremental_class_il": [0.8, 0.825, 0.75],
        "forgetting_class_il": [math.nan, -0.1, 0.3],
        "backward_transfer_class_il": [math.nan, 0.1, -0.25],
        "forward_transfer_class_il": [0.1, 0.25, 0.25],
        "learning_accuracy_class_il": [0.8, 0.8, 2.3 / 3],
        "anytime_average_class_il": [0.8, 1.8 / 3, 2.4 / 4],
        "worst_case_class_il": [math.nan, 0.8 / 2 + 0.1 / 2, 0.7 / 3 + 2 / 3 * 0.35],
    }
    for name, values in by_hand.items():
        assert frame[name].tolist() == pytest.approx(values, nan_ok=True), name
    for name in set(summary) & set(frame.columns) - {"peak_memory", "images_per_s"}:
        if not name.endswith("_s"):  # times of the summary are those of all tasks
            assert frame[name].iloc[-1] == summary[name], name


def test_nothing_compares_the_tasks_of_joint_training():
    results = Results()
    results.add(Evaluation([0.5, 0.75], [0.5, 1.0]), train_s=1.0, eval_s=1.0, images=10)
    results.curve = [{"task": 0, "class_il": [0.25, 0.5], "task_il": [0.5, 0.5]}]
    summary = results.summary()
    names = ("forgetting", "backward_transfer", "learning_accuracy", "worst_case")
    assert {summary[f"{name}_class_il"] for name in names} == {None}
    assert summary["average_incremental_class_il"] == 0.625
    assert summary["anytime_average_class_il"] == 0.5


def test_large_tasks_count_more_in_the_accuracy_over_all_images():
    results = Results()
    for confusion in ([[9, 1], [3, 7]], [[8, 2, 0], [0, 10, 0], [0, 5, 0]]):
        seen = Evaluation([0.5] * (len(confusion) - 1), confusion=confusion)
        results.add(seen, train_s=1.0, eval_s=1.0, images=10)
    summary = results.summary()
    assert results.micro_class_il == [0.8, 18 / 25]
    assert summary["micro_class_il"] == 18 / 25
    assert summary["average_incremental_micro_class_il"] == pytest.approx(0.76)
    assert math.isnan(micro_accuracy([]))


UNUSUAL_RUNS = {
    "one task": {"n_tasks": 1},
    "a large first task": {"base_classes": 4},
    "joint": {"joint": True},
    "started later": {"start_from": 1},
    "stopped after one task": {"stop_after": 1},
    "a class without test images": {},
}


@pytest.mark.parametrize("case", UNUSUAL_RUNS)
def test_all_outputs_agree(run_tiny, tiny, monkeypatch, tmp_path, capsys, case):
    if not UNUSUAL_RUNS[case]:
        original = tiny.Dataset.get_data_loaders

        def get_data_loaders(self):
            train, test = original(self)
            kept = test.targets != 3
            test.data, test.targets = test.data[kept], test.targets[kept]
            return train, test

        monkeypatch.setattr(tiny.Dataset, "get_data_loaders", get_data_loaders)
    console = [Console(), FinalTable()]
    _, _, results = run_tiny(observers=console, eval_every=4, **UNUSUAL_RUNS[case])
    path = tmp_path / "results.json"
    results.write_json(path)
    summary = results.summary()
    printed = capsys.readouterr().out
    last = f"[Class-IL] {100 * summary['class_il']:.2f} %  [Task-IL] {100 * summary['task_il']:.2f}"
    assert last in printed
    assert results.table() in printed
    read = Results.read_json(path)
    assert read.summary() == summary
    for frame in (load(path), read.to_dataframe("task").tail(1)):
        row = frame.iloc[0]
        for name in set(summary) & set(row.index):
            if not name.endswith("_s") and summary[name] is not None and name != "peak_memory":
                assert row[name] == summary[name], name
    # The last row of the matrix and the confusion matrix are of the same predictions.
    correct = sum(row[k] for k, row in enumerate(results.confusion))
    assert results.micro_class_il[-1] == correct / sum(map(sum, results.confusion))
    assert [value is None for value in results.per_class[-1]] == [
        not sum(row) for row in results.confusion
    ]


def test_dataframe_of_classes(results):
    results.per_class, results.class_names = [[0.5], [0.25, None]], ["cat", "dog"]
    frame = results.to_dataframe("class")
    assert frame[["after_task", "class_id", "name"]].values.tolist() == [
        *([0, 0, "cat"], [1, 0, "cat"], [1, 1, "dog"])
    ]
    assert frame.class_il.tolist()[:2] == [0.5, 0.25]
    assert math.isnan(frame.class_il[2])


def test_dataframe_of_the_curve(results):
    frame = results.to_dataframe("curve")
    assert frame[["after_task", "step", "task"]].values.tolist() == [[1, 4, 0], [1, 4, 1]]
    assert frame.task_il.tolist() == [0.3, 0.4]


def test_unknown_kind_of_dataframe_raises(results):
    with pytest.raises(ValueError, match="unknown kind 'x'; valid: accuracy, task, class, curve"):
        results.to_dataframe("x")


def test_missing_pandas_raises(results, monkeypatch):
    original = builtins.__import__

    def fail(name, *args, **kwargs):
        if name == "pandas":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(MammothError, match=r"requires pandas.*: pip install pandas"):
        results.to_dataframe()


def test_json_round_trip(results, tmp_path):
    results.ece[0] = math.nan
    results.write_json(tmp_path / "results.json")
    read = Results.read_json(tmp_path / "results.json")
    assert math.isnan(read.ece[0])
    read.ece[0] = results.ece[0] = 0.0
    assert read == results


def test_lists_of_numbers_take_one_line(results, tmp_path):
    results.config = {"text": "[\n1]"}
    results.write_json(tmp_path / "results.json")
    text = (tmp_path / "results.json").read_text()
    assert "    [0.9, 0.8],\n" in text
    assert '"recency_bias": [null, null, null],\n' in text
    assert Results.read_json(tmp_path / "results.json").config == results.config


def test_older_results_load(tmp_path):
    path = tmp_path / "results.json"
    path.write_text('{"schema": 1, "class_il": [[0.5]], "task_il": [[0.75]], "loss": [null]}')
    results = Results.read_json(path)
    assert results.accuracy == {"class_il": 0.5, "task_il": 0.75}
    assert (results.top5, results.peak_memory, results.recency_bias) == ([[]], [0], [None])
    assert math.isnan(results.loss[0])
    assert results.to_dataframe().top5.tolist() == [None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a JSON file"),
        ("[1]", "does not contain the results of a run: use a file written by --results_path"),
        ('{"class_il": 1}', "does not contain the results"),
    ],
)
def test_files_without_results_raise(tmp_path, text, message):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(MammothError, match=message):
        Results.read_json(path)
    with pytest.raises(MammothError, match=r"cannot read .*missing\.json: No such file"):
        Results.read_json(tmp_path / "missing.json")


def test_class_names_follow_the_order_of_the_classes(run_tiny, tmp_path):
    _, dataset, results = run_tiny(custom_class_order="5,4,3,2,1,0")
    assert results.class_names == ["5", "4", "3", "2", "1", "0"]
    assert tuple(results.class_names) == dataset.info().class_names
    results.write_json(tmp_path / "results.json")
    assert Results.read_json(tmp_path / "results.json").class_names == results.class_names
