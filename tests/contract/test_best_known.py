"""The best known settings of every model: sourced, of known arguments, and what a run then uses."""

import pytest

from mammoth_compiled import get_avail_args
from mammoth_compiled.config import resolve
from mammoth_compiled.models.common.settings import DER, published
from mammoth_compiled.registry import datasets, models

PAIRS = [(model, dataset) for model in models for dataset in models[model].target.DEFAULTS]
each_pair = pytest.mark.parametrize(("model", "dataset"), PAIRS)


def settings_of(model, dataset):
    found = models[model].target.DEFAULTS[dataset]
    return found if isinstance(found, list) else [found]


@each_pair
def test_settings_have_a_source_and_known_arguments(model, dataset):
    assert datasets[dataset].target.SETTING in models[model].target.COMPATIBILITY
    required, optional = get_avail_args(model=model, dataset=dataset)
    known = {"source", *required, *optional}
    for setting in settings_of(model, dataset):
        assert isinstance(setting["source"], str)
        assert setting["source"]
        assert set(setting) <= known


@each_pair
def test_a_run_uses_them(model, dataset):
    for setting in settings_of(model, dataset):
        given = {"buffer_size": setting["buffer_size"]} if "buffer_size" in setting else {}
        args = vars(resolve(model, dataset, given))
        used = {name: args[name] for name in setting if name != "source"}
        assert used == {name: value for name, value in setting.items() if name != "source"}


def test_the_first_buffer_size_is_the_default():
    settings = published({"seq-mnist": {"lr": 0.1, "alpha": (1.0, 0.5), "source": "a paper"}})
    shared = {"n_epochs": 1, "batch_size": 10, "lr": 0.1, "source": "a paper"}
    assert settings["seq-mnist"] == [
        {**shared, "buffer_size": 500, "alpha": 1.0},
        {**shared, "buffer_size": 200, "alpha": 0.5},
    ]


def test_settings_of_a_paper_follow_its_protocol():
    assert published({"perm-mnist": {"lr": 0.1}}, buffer_size=None) == {
        "perm-mnist": {"n_epochs": 1, "batch_size": 128, "lr": 0.1, "source": DER}
    }
    assert published({"mnist-360": {"lr": 0.1}})["mnist-360"]["buffer_size"] == 500
