"""Accuracy figures against values worked out by hand, and the files of results."""

import json
import math

import pytest

from mammoth_compiled.metrics import average, backward_transfer, forgetting
from mammoth_compiled.results import Results
from mammoth_compiled.types import Evaluation

# Rows: after tasks 1, 2, 3. Best before the last row: task 1 0.9, task 2 0.8.
MATRIX = [[0.8], [0.9, 0.8], [0.5, 0.6, 0.7]]


@pytest.fixture
def results():
    results = Results(config={"lr": 0.1})
    for i, row in enumerate(MATRIX):
        task_row = [min(1.0, a + 0.1) for a in row]
        results.add(
            Evaluation(list(row), task_row, loss=float(i)),
            train_s=2.5,
            compile_s=0.5,
            eval_s=0.5,
            images=100,
        )
    return results


def test_average():
    assert average([0.2, 0.4]) == pytest.approx(0.3)
    assert math.isnan(average([]))


def test_forgetting_takes_the_best_of_the_earlier_rows():
    assert forgetting(MATRIX) == pytest.approx(((0.9 - 0.5) + (0.8 - 0.6)) / 2)


def test_forgetting_can_be_negative():
    assert forgetting([[0.5], [0.7, 0.9]]) == pytest.approx(-0.2)


def test_backward_transfer_compares_with_when_it_was_learnt():
    assert backward_transfer(MATRIX) == pytest.approx(((0.5 - 0.8) + (0.6 - 0.8)) / 2)


@pytest.mark.parametrize("figure", [forgetting, backward_transfer])
@pytest.mark.parametrize("matrix", [[], [[0.5]]])
def test_nothing_to_forget_before_the_second_task(figure, matrix):
    assert figure(matrix) is None


def test_accuracy_is_that_of_the_last_row(results):
    assert results.accuracy["class_il"] == pytest.approx(0.6)
    assert results.accuracy["task_il"] == pytest.approx(0.7)


def test_accuracy_before_the_first_task():
    assert math.isnan(Results().accuracy["class_il"])


def test_images_per_second(results):
    assert results.images_per_second == pytest.approx(300 / 6)
    assert math.isnan(Results().images_per_second)


def test_summary(results):
    summary = results.summary()
    assert summary["forgetting_class_il"] == pytest.approx(0.3)
    assert summary["backward_transfer_class_il"] == pytest.approx(-0.25)
    assert summary["forgetting_task_il"] == pytest.approx(0.3)
    assert [summary[k] for k in ("train_s", "compile_s", "eval_s")] == [7.5, 1.5, 1.5]


def test_table_in_percent(results):
    lines = results.table().split("\n")
    assert lines[0].split() == [
        *["after", "task", "1", "task", "2", "task", "3"],
        "Class-IL",
        "Task-IL",
    ]
    assert lines[1].split() == ["task", "1", "80.00", "80.00", "90.00"]
    assert lines[3].split() == ["task", "3", "50.00", "60.00", "70.00", "60.00", "70.00"]
    assert lines[4] == "forgetting (Class-IL): 30.00"
    assert len({len(line) for line in lines[:4]}) == 1


def test_table_of_joint_training_has_one_row():
    results = Results()
    results.add(Evaluation([0.5, 0.7], [0.6, 0.8], 1.0), train_s=1.0, eval_s=1.0, images=10)
    lines = results.table().split("\n")
    assert lines[1].split() == ["training", "50.00", "70.00", "60.00", "70.00"]
    assert len(lines) == 2


def test_table_of_a_run_that_stopped_after_its_first_task():
    results = Results()
    results.add(Evaluation([0.5], [0.6], 1.0), train_s=1.0, eval_s=1.0, images=10)
    assert results.table().split("\n")[1].split() == ["task", "1", "50.00", "50.00", "60.00"]


def test_state_round_trip(results):
    other = Results()
    other.load_state_dict(results.state_dict())
    assert other.state_dict() == results.state_dict()


def test_json(results, tmp_path):
    results.loss[0] = float("nan")
    path = tmp_path / "new" / "results.json"
    results.write_json(path)
    content = json.loads(path.read_text())
    assert content["schema"] == 1
    assert content["config"] == {"lr": 0.1}
    assert content["class_il"] == MATRIX
    assert content["loss"] == [None, 1.0, 2.0]
    assert content["summary"]["class_il"] == pytest.approx(0.6)
    assert content["interrupted"] is False
    assert set(content["versions"]) == {"python", "torch"}
    assert content["hardware"]["threads"] == 1
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]


def test_json_of_a_run_without_a_task(tmp_path):
    Results().write_json(tmp_path / "results.json")
    assert json.loads((tmp_path / "results.json").read_text())["summary"]["class_il"] is None
