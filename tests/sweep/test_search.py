"""Search with Optuna: it learns from scores, prunes, and continues after a kill."""

import pytest

from mammoth_compiled.errors import MammothError
from mammoth_compiled.results import Results
from mammoth_compiled.sweep import search as search_module
from mammoth_compiled.sweep.search import OptunaSearch
from mammoth_compiled.sweep.space import Range, Search
from mammoth_compiled.sweep.worker import Event

FIXED = {"model": "sgd", "dataset": "seq-tiny", "validation": 0.2, "seed": [0, 1]}
AXES = {"lr": Range(0.001, 1.0, log=True), "optimizer": ["sgd", "adam"]}


@pytest.fixture
def search(tiny, tmp_path, monkeypatch):
    """Returns a function that makes a search whose runs score by their learning rate."""
    monkeypatch.setattr(search_module.Trial, "finished", lambda trial: trial)
    monkeypatch.setattr(search_module, "score", lambda trial, metric: 1 - trial.args.lr)

    def make(**settings):
        settings = {"method": "random", "trials": 6, **settings}
        return OptunaSearch(Search(**settings), AXES, FIXED, (), tmp_path)

    return make


def finish(search, trials):
    for trial in trials:
        search.judge(trial, Event("finished"))
    return trials


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_finds_the_best_combination(search, method):
    engine = search(method=method)
    trials = []
    for trial in engine.trials():
        trials += finish(engine, [trial])
    assert len(trials) == 6 * 2  # two seeds
    assert {trial.args.seed for trial in trials} == {0, 1}
    values, value = engine.best()
    assert values["lr"] == min(trial.args.lr for trial in trials)
    assert value == pytest.approx(1 - values["lr"])


def test_a_killed_search_continues(search):
    engine = search()
    source = engine.trials()
    done = finish(engine, [next(source), next(source)])
    running = next(source)  # its sweep is killed here
    rest = []
    again = search()
    for trial in again.trials():
        rest += finish(again, [trial])
    assert [trial.folder for trial in rest[:1]] == [running.folder]
    assert len(rest) == 5 * 2
    assert not {trial.folder for trial in done} & {trial.folder for trial in rest}
    rates = {trial.args.lr for trial in done + rest}
    assert len(rates) == 6  # nothing is drawn again
    assert list(search().trials()) == []


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_a_search_killed_anywhere_runs_the_same_combinations(search, method, tmp_path, monkeypatch):
    engine = search(method=method)
    first = [trial for trial in engine.trials() if finish(engine, [trial])]
    journal = (tmp_path / "optuna.log").read_bytes()
    monkeypatch.chdir(tmp_path)
    for end in range(1, len(journal), 397):
        (tmp_path / "optuna.log").write_bytes(journal[:end])
        (tmp_path / "optuna.log.lock").unlink(missing_ok=True)
        (tmp_path / "optuna.log.lock").symlink_to("held by the killed process")
        again = search(method=method)
        rest = [trial for trial in again.trials() if finish(again, [trial])]
        assert {trial.folder for trial in rest} <= {trial.folder for trial in first}
        assert len(again._study.trials) == 6
        assert again.best() == engine.best()


def test_a_failed_seed_disqualifies_its_combination(search):
    engine = search(trials=2)
    source = engine.trials()
    first, second = next(source), next(source)
    engine.judge(first, Event("failed", value="the loss became nan"))
    engine.judge(second, Event("finished"))
    with pytest.raises(MammothError, match="no combination finished"):
        engine.best()
    finish(engine, list(source))
    assert engine.best()[0]["lr"] != first.args.lr


def test_median_pruning_stops_bad_combinations(search):
    engine = search(trials=12, pruning="median")
    stopped = []
    for number, trial in enumerate(engine.trials()):
        is_bad = number >= 14
        goes_on = engine.judge(trial, Event("task", 1, 0.1 if is_bad else 0.9))
        if goes_on:
            engine.judge(trial, Event("finished"))
        else:
            stopped.append(trial)
            engine.judge(trial, Event("stopped"))
    assert stopped
    assert all(trial.args.seed == 0 for trial in stopped)  # the second seed never started


def test_scores_are_final_average_accuracies():
    results = Results(class_il=[[0.5], [0.25, 0.75]], task_il=[[0.5], [1.0, 0.5]])
    assert search_module.score(results, "class_il") == 0.5
    assert search_module.score(results, "task_il") == 0.75
