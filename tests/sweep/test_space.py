"""The file of a sweep: what varies, how to search, and clear errors."""

import pytest

from mammoth_compiled.errors import ConfigError
from mammoth_compiled.sweep.space import Range, Search
from mammoth_compiled.sweep.sweep import Sweep

SGD = "model: sgd\ndataset: seq-tiny\n"


@pytest.fixture
def sweep_of(tiny, tmp_path):
    path = tmp_path / "exp.yaml"

    def read(text, *words):
        path.write_text(text)
        return Sweep.from_file(str(path), words, tmp_path / "sweep")

    return read


def test_a_grid_has_a_run_for_every_combination(sweep_of):
    sweep = sweep_of(f"{SGD}lr: [0.1, 0.2]\nseed: [0, 1]\n")
    assert sweep.describe() == [
        "lr=0.1 seed=0",
        "lr=0.1 seed=1",
        "lr=0.2 seed=0",
        "lr=0.2 seed=1",
    ]


def test_a_search_runs_every_seed_of_a_combination(sweep_of):
    text = (
        f"{SGD}validation: 0.2\nlr: {{low: 0.01, high: 1, log: true}}\nseed: [0, 1]\n"
        "optimizer: [sgd, adam]\nsweep: {method: random, trials: 3}\n"
    )
    sweep = sweep_of(text)
    assert set(sweep.axes) == {"lr", "optimizer"}
    assert sweep.axes["lr"] == Range(0.01, 1, log=True)
    assert sweep.describe()[0] == "3 combinations by random, 2 seeds each:"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr: {low: 0.1, high: 1}", "lr is a range, which a grid cannot run"),
        ("lr: {low: 1, high: 0.1}\nsweep: {method: tpe}", "lr: {'low': 1, 'high': 0.1} is not"),
        ("lr: {low: 0, high: 1, log: true}\nsweep: {method: tpe}", "needs low > 0"),
        ("lr: {low: 0.1, hihg: 1}\nsweep: {method: tpe}", "is not a range"),
        ("lr: [0.1, 1]\nsweep: {method: tpe}", "a search would choose by test images"),
        ("sweep: {method: tpe}\nvalidation: 0.1", "nothing varies"),
        ("sweep: {method: best}", "sweep: method must be one of grid, random, tpe, got 'best'"),
        ("sweep: {trials: 0}", "sweep: trials must be an integer >= 1 and at most 10,000, got 0"),
        ("sweep: {trials: 100000000000}", "trials must be an integer >= 1 and at most 10,000, got"),
        ("sweep: {seed: 99999999999}", "seed must be an integer >= 0 and at most 4,294,967,295"),
        ("sweep: {trails: 3}", "sweep: unknown argument 'trails'. Did you mean 'trials'"),
        ("sweep: 3", "sweep: must give arguments by name, got 3"),
        ("sweep: {pruning: median}", "pruning needs method random or tpe"),
    ],
)
def test_invalid_files(sweep_of, text, message):
    with pytest.raises(ConfigError) as caught:
        sweep_of(SGD + text)
    assert message in str(caught.value)


def test_defaults():
    assert Search.from_section({}) == Search("grid", 20, "class_il", "none", 0)
    assert Range.from_mapping("n", {"low": 1, "high": 9, "step": 2}).is_integer
    assert not Range.from_mapping("n", {"low": 1, "high": 9.0}).is_integer
