"""The best known settings of every model: sourced, of known arguments, and what a run then uses."""

import pytest

from mammoth_compiled import get_avail_args
from mammoth_compiled.config import resolve
from mammoth_compiled.models.common.settings import by_buffer
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
    settings = by_buffer({500: {"alpha": 1.0}, 200: {"alpha": 0.5}}, lr=0.1)
    assert settings == [
        {"lr": 0.1, "buffer_size": 500, "alpha": 1.0},
        {"lr": 0.1, "buffer_size": 200, "alpha": 0.5},
    ]
