"""The reproduction page is that of the committed results, and its script finds and judges runs."""

import importlib
import json
import shutil
from copy import copy
from dataclasses import replace
from pathlib import Path

import pytest

from mammoth_compiled.registry import models
from mammoth_compiled.training import run_experiment

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / "benchmarks" / "results" / "reproduction.json"
PEERS = RESULTS.with_name("peers.json")


@pytest.fixture
def script(monkeypatch):
    """Returns a function that imports a module of `benchmarks`."""
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    return importlib.import_module


def row(method, class_il, task_il=None, buffer_size=None, sd=None, n=1):
    """Returns a row as `summarize` does; accuracies in [0, 1]."""
    figures = {
        "class_il": {"mean": class_il, "sd": sd, "n": n},
        "task_il": {"mean": task_il, "sd": sd, "n": n},
    }
    return {"method": method, "buffer_size": buffer_size, **figures}


def test_page_is_drawn_from_the_committed_results(script):
    page = (REPOSITORY / "docs" / "reproduction.md").read_text()
    found, peers = (json.loads(path.read_text()) for path in (RESULTS, PEERS))
    drawn = script("reproduction_page").render(found, peers)
    assert page == drawn, "run python benchmarks/reproduce.py --budget 0"


def test_committed_orderings_are_those_of_the_rows(script):
    for protocol in json.loads(RESULTS.read_text())["protocols"].values():
        assert protocol["orderings"] == script("orderings").check(protocol["rows"])


def test_every_method_is_run_or_needs_pretrained_weights(script):
    protocols = script("protocols")
    assert sorted((*protocols.METHODS, *protocols.PRETRAINED)) == sorted(models)


def test_orderings(script):
    rows = [
        row("joint", 0.8),
        row("sgd", 0.2, 0.9),
        row("si", 0.26, 0.9),
        row("agem", 0.24, buffer_size=200),
        row("er", 0.5, buffer_size=200),
        row("er", 0.6, buffer_size=500),
        row("er-ace", 0.45, buffer_size=200, sd=0.02, n=2),
    ]
    found = {(e["claim"], e["buffer_size"]): e for e in script("orderings").check(rows)}
    verdicts = {key: entry["holds"] for key, entry in found.items()}
    assert verdicts == {
        ("er-ace above er", 200): False,
        ("er above agem", 200): True,
        ("agem within 5 points of sgd", 200): True,
        ("si within 5 points of sgd", None): False,
        ("task-IL of sgd at least 20 points above its class-IL", None): True,
    }
    assert found["er-ace above er", 200]["difference"] == pytest.approx(-5)


def test_runs_are_planned_once_and_found_again(script, tiny, tmp_path):
    reproduce, protocols = script("reproduce"), script("protocols")
    published = {("er", 20): protocols.Published(50.0, None, "a paper")}
    protocol = protocols.Protocol("seq-tiny", "tiny-net", "Tiny.", {}, (20, 40), published)
    protocol = replace(protocol, method_arguments={"er": {"n_epochs": 2}})
    given = {"compile": "off"}
    trials = reproduce.plan(protocol, ["sgd", "er"], 2, tmp_path, given)
    assert [(t.args.model, t.args.seed, vars(t.args).get("buffer_size")) for t in trials] == [
        *(("sgd", 0, None), ("er", 0, 20), ("er", 0, 40)),
        *(("sgd", 1, None), ("er", 1, 20), ("er", 1, 40)),
    ]
    assert len({trial.folder for trial in trials}) == 6
    assert [t.args.n_epochs for t in trials[1:3]] == [2, 2]
    assert reproduce.plan(protocol, ["er"], 1, tmp_path, given, [40])[0].folder == trials[2].folder
    assert reproduce.summarize(protocol, trials) == []
    results = [run_experiment(copy(trials[number].args)) for number in (1, 4)]
    (found,) = reproduce.summarize(protocol, trials)
    assert (found["method"], found["buffer_size"], found["class_il"]["n"]) == ("er", 20, 2)
    assert found["class_il"]["values"] == [one.summary()["class_il"] for one in results]
    assert found["published"]["class_il"] == 50.0
    # Known results stand in for folders, unless the settings are others now.
    elsewhere = reproduce.plan(protocol, ["sgd", "er"], 2, tmp_path / "elsewhere", given)
    records = reproduce.read_records([found], elsewhere)
    assert set(records) == {elsewhere[1].folder, elsewhere[4].folder}
    assert reproduce.summarize(protocol, elsewhere, records) == [found]
    other = reproduce.plan(protocol, ["er"], 2, tmp_path / "other", given | {"lr": 0.5})
    assert reproduce.read_records([found], other) == {}


def test_a_spent_budget_writes_what_is_known(script, tiny, tmp_path, monkeypatch, capsys):
    reproduce, protocols = script("reproduce"), script("protocols")
    protocol = protocols.Protocol("seq-tiny", "tiny-net", "Tiny.", {}, (20,))
    monkeypatch.setattr(reproduce, "PROTOCOLS", {"fmnist": protocol})
    monkeypatch.setattr(reproduce, "METHODS", ("er",))
    monkeypatch.setattr(reproduce, "RESULTS", tmp_path)
    monkeypatch.setattr(reproduce, "PAGE", tmp_path / "page.md")
    command = ["--methods", "er", "--seeds", "1", "--budget", "0", "--out", str(tmp_path / "runs")]
    (trial,) = reproduce.plan(protocol, ["er"], 1, tmp_path / "runs" / "fmnist")
    assert reproduce.main(command) == 0
    assert not (tmp_path / "reproduction.json").exists()
    run_experiment(copy(trial.args))
    assert reproduce.main(command) == 0
    written = json.loads((tmp_path / "reproduction.json").read_text())["protocols"]["fmnist"]
    (found,) = written["rows"]
    assert (found["method"], found["seeds"]) == ("er", [0])
    # Another machine adds nothing where it has run nothing.
    shutil.rmtree(tmp_path / "runs")
    monkeypatch.setattr(reproduce, "environment", lambda: {"cpu": "another"})
    assert reproduce.main(command) == 0
    assert "fmnist: 0 runs" in capsys.readouterr().out
    again = json.loads((tmp_path / "reproduction.json").read_text())["protocols"]["fmnist"]
    assert again == written


def test_a_table_names_every_machine_that_its_runs_were_computed_on(script):
    add = script("reproduce").add_environment
    first = {"cpu": "A", "cores": 2, "gpu": None, "torch": "2.14.1+cu130", "date": "2026-01-01"}
    other, later = first | {"cpu": "B"}, first | {"date": "2026-01-02"}
    assert add([], first) == [first]
    assert add([first], other) == [first, other]
    assert add([first, other], later) == [other, later]
    protocol = json.loads(RESULTS.read_text())["protocols"]["fmnist"]
    page = script("reproduction_page").render(
        {"protocols": {"fmnist": {**protocol, "environments": [first, other]}}}
    )
    assert (
        "*Measured on 2 CPU cores (A), torch 2.14.1, 2026-01-01 and on "
        "2 CPU cores (B), torch 2.14.1, 2026-01-01.*"
    ) in page
