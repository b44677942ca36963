"""Reading results files and grouping runs."""

import json

import pytest

from mammoth_compiled.errors import MammothError
from mammoth_compiled.report import read_runs
from mammoth_compiled.report.groups import group


def test_a_file_a_folder_and_a_folder_of_runs(results_file, make_run):
    first, second = make_run("er", 0), make_run("er", 1)
    (file_run,) = read_runs([results_file])
    assert (file_run.name, file_run.num_tasks) == ("real", 3)
    names = [run.name for run in read_runs([first.parent, second, results_file])]
    assert names == ["er-s0", "er-s1", "real"]


def test_measures_of_a_real_run_are_those_of_its_summary(results_file):
    (run,) = read_runs([results_file])
    summary = json.loads(results_file.read_text())["summary"]
    measures = run.measures()
    assert {key: measures[key] for key in summary if summary[key] is not None} == {
        key: value for key, value in summary.items() if value is not None
    }
    assert measures["average_incremental_class_il"] == pytest.approx(
        sum(sum(row) / len(row) for row in run.class_il) / 3
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not JSON", "is not a results file"),
        ('{"config": {}}', "does not contain the results of a run"),
        ('{"config": {}, "class_il": [1], "task_il": []}', "is not a results file"),
        ("[]", "is not a results file"),
    ],
)
def test_other_files_raise(tmp_path, text, message):
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(MammothError, match="give a file that a run wrote") as info:
        read_runs([path])
    assert message in str(info.value)


def test_missing_runs_raise(tmp_path):
    with pytest.raises(MammothError, match="there is no run at"):
        read_runs([tmp_path / "absent"])
    with pytest.raises(MammothError, match=r"has no results\.json"):
        read_runs([tmp_path])


def test_runs_that_differ_in_seed_and_files_are_one_method(make_run):
    runs = read_runs(
        [
            make_run("er", 0, results_path="a.json"),
            make_run("er", 1, results_path="b.json"),
            make_run("er", 0, buffer_size=50),
            make_run("sgd", 0),
            make_run("sgd", 0, dataset="seq-other"),
        ]
    )
    tiny, other = sorted(group(runs), key=lambda benchmark: -len(benchmark.methods))
    labels = {method.label: len(method.runs) for method in tiny.methods}
    assert labels == {"er, buffer_size 10": 2, "er, buffer_size 50": 1, "sgd": 1}
    assert (other.dataset, len(other.methods)) == ("seq-other", 1)
    assert set(tiny.differences()) == {"buffer_size"}
    assert tiny.common()["batch_size"] == 8
    means = [method.summary("class_il").mean for method in tiny.methods]
    assert means == sorted(means, reverse=True)


def test_interrupted_runs_do_not_count_unless_there_is_no_other(make_run):
    whole = make_run("er", 0)
    partial = make_run("er", 1, num_tasks=2, changes={"interrupted": True})
    (benchmark,) = group(read_runs([whole, partial]))
    (method,) = benchmark.methods
    assert [run.seed for run in method.complete] == [0]
    assert len(method.mean_matrix()) == 4
    (benchmark,) = group(read_runs([partial]))
    assert [run.seed for run in benchmark.methods[0].complete] == [1]


def test_mean_matrix(make_run):
    runs = read_runs([make_run("er", seed) for seed in range(3)])
    (benchmark,) = group(runs)
    mean = benchmark.methods[0].mean_matrix()
    for t in range(4):
        for j in range(t + 1):
            assert mean[t][j] == pytest.approx(sum(run.class_il[t][j] for run in runs) / 3)
