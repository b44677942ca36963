"""Trials: names of their folders, shared outputs, results that exist already."""

from argparse import Namespace

import pytest

from mammoth_compiled.config.experiments import resolve_experiments
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.sweep.trial import make_trials

SGD = {"model": "sgd", "dataset": "seq-tiny"}


def runs(**values):
    return [resolution.args for resolution in resolve_experiments([], {**SGD, **values})]


def test_folders_are_named_by_what_differs(tiny, tmp_path):
    trials = make_trials(runs(lr=[0.1, 0.2], seed=[0, 1]), tmp_path)
    assert [trial.label for trial in trials][:2] == ["lr=0.1 seed=0", "lr=0.1 seed=1"]
    assert trials[0].folder == tmp_path / "lr=0.1-seed=0"


@pytest.mark.parametrize("values", [[0.12345, 0.12345678], ["a b", "a-b"], ["ä", "ö"]])
def test_different_values_have_different_folders(tmp_path, values):
    trials = make_trials([Namespace(x=value, out=None) for value in values], tmp_path)
    assert len({trial.folder for trial in trials}) == len(values)
    again = make_trials([Namespace(x=value, out=None) for value in values], tmp_path)
    assert [trial.folder for trial in again] == [trial.folder for trial in trials]


def test_trials_share_compiled_code_unless_shapes_differ(tiny, tmp_path):
    keys = [t.compile_key for t in make_trials(runs(lr=[0.1, 0.2], batch_size=[4, 8]), tmp_path)]
    assert keys[0] == keys[2]
    assert keys[0] != keys[1]


@pytest.mark.parametrize("name", ["results_path", "checkpoint_path", "export", "loadcheck"])
def test_runs_cannot_share_an_output(tiny, tmp_path, name):
    with pytest.raises(ConfigError, match=f"--{name} .*: several runs cannot share it"):
        make_trials(runs(lr=[0.1, 0.2], **{name: str(tmp_path / "x")}), tmp_path)
