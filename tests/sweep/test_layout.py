"""How runs share the cores: what is measured, kept and chosen."""

import json
from argparse import Namespace

import pytest

from mammoth_compiled.sweep import layout
from mammoth_compiled.sweep.layout import Layout, choose_layout, fastest
from mammoth_compiled.sweep.trial import Trial


@pytest.fixture
def trial(monkeypatch, tmp_path):
    """A trial on a machine with four cores whose caches are empty."""
    monkeypatch.setattr(layout, "available_cores", lambda: 4)
    monkeypatch.setenv("MAMMOTH_CACHE_DIR", str(tmp_path))
    args = Namespace(model="sgd", dataset="seq-fmnist-mini", backbone="cnn", device="cpu")
    return Trial(args, "the run")


@pytest.fixture
def measured(monkeypatch):
    """Replaces measurements; the layouts measured."""
    calls = []

    def rate(trial, workers, threads, plugins):
        calls.append((workers, threads))
        return 10.0 / workers**0.25

    monkeypatch.setattr(layout, "_rate", rate)
    return calls


@pytest.mark.parametrize(
    ("rates", "total", "expected"),
    [
        ({2: 30.0, 1: 40.0}, 4, (2, 1)),
        ({2: 30.0, 1: 70.0}, 4, (1, 2)),
        ({2: 30.0, 1: 50.0}, 3, (1, 2)),  # the third would run alone
        ({2: 30.0, 1: 50.0}, None, (2, 1)),
        ({2: 30.0, 1: 61.0}, 4, (2, 1)),  # about the same
        ({4: 10.0, 2: 30.0, 1: 40.0}, 8, (2, 2)),
    ],
)
def test_the_fastest_layout_is_chosen(rates, total, expected):
    cores = max(rates)
    assert fastest(rates, total, cores)[:2] == expected


def test_layouts_are_measured_once(trial, measured):
    first = choose_layout(trial, total=8)
    assert measured == [(4, 1), (2, 2), (1, 4)]
    assert first[:2] == (4, 1)
    assert first.reason == "measured: 2.83x the steps/s of 1 at a time"
    assert choose_layout(trial, total=8) == first
    assert len(measured) == 3
    other = Trial(Namespace(**{**vars(trial.args), "batch_size": 128}), "another run")
    choose_layout(other, total=2)
    assert measured[3:] == [(2, 2), (1, 4)]


def test_a_damaged_cache_is_measured_again(trial, measured, tmp_path):
    choose_layout(trial)
    (path,) = (tmp_path / "layouts").iterdir()
    assert json.loads(path.read_text())["1"] == 10.0
    path.write_text("[")
    assert choose_layout(trial)[:2] == (4, 1)
    assert len(measured) == 6


def test_nothing_is_measured_where_nothing_is_to_choose(trial, measured):
    assert choose_layout(trial, total=8, workers=2) == Layout(2, 2, "--workers")
    assert choose_layout(trial, total=2, workers=3)[:2] == (2, 2)
    assert choose_layout(trial, total=1)[:2] == (1, 4)
    trial.args.debug_mode = True
    assert choose_layout(trial, total=8)[:2] == (4, 1)
    assert not measured


def test_runs_that_cannot_be_measured_share_the_cores(trial, monkeypatch):
    monkeypatch.setattr(layout, "_rate", lambda *args: 0.0)
    assert choose_layout(trial, total=8) == Layout(4, 1)


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (Layout(2, 1, "--workers"), "2 at a time on 1 thread each (--workers)"),
        (Layout(1, 4), "1 at a time on 4 threads each"),
    ],
)
def test_layouts_in_words(found, text):
    assert str(found) == text
