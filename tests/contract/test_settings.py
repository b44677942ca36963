"""Every model trains in the settings that it declares, and is refused in the others.

The datasets: two domains, in the second of which colors are inverted, and one stream in the order
of the classes. All classes are in both domains.
"""

import math

import pytest

from mammoth_compiled import load_runner, train
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.registry import datasets, models

SETTINGS = ("class-il", "task-il", "domain-il", "general-continual")
PAIRS = [(name, setting) for name in models for setting in SETTINGS[2:]]
DECLARED = [(n, s) for n, s in PAIRS if s in models[n].target.COMPATIBILITY]


@pytest.fixture
def load(tiny, example_args):
    """Returns a function that loads a model on a dataset with a setting."""

    class Domains(tiny.Dataset):
        SETTING = "domain-il"
        N_CLASSES_PER_TASK = 6
        N_TASKS = 2

        def get_data_loaders(self):
            splits = super().get_data_loaders()
            for split in splits:
                split.data = 255 - split.data if self.c_task else split.data
            return splits

    class Stream(Domains):
        SETTING = "general-continual"
        N_TASKS = 1

        def get_data_loaders(self):
            train_set, test_set = super().get_data_loaders()
            order = train_set.targets.argsort(kind="stable")
            train_set.data, train_set.targets = train_set.data[order], train_set.targets[order]
            return train_set, test_set

    datasets.register("domain-il")(Domains)
    datasets.register("general-continual")(Stream)

    def build(name, setting, **args):
        args = {"seed": 0, "batch_size": 8, "compile": "off", **args, **example_args(name)}
        return load_runner(name, setting, args)

    return build


@pytest.mark.parametrize("name", list(models))
def test_settings_are_valid(name):
    assert set(models[name].target.COMPATIBILITY) <= set(SETTINGS)


@pytest.mark.parametrize(("name", "setting"), DECLARED)
def test_trains_in_the_settings_it_declares(load, name, setting):
    repeats = setting == "domain-il" or not models[name].target.TRAINS_ON_STREAM
    model, dataset = load(name, setting, lr=0.05, n_epochs=4 if repeats else 1)
    results = train(model, dataset)
    assert len(results.class_il[-1]) == dataset.N_TASKS
    assert all(math.isfinite(loss) for loss in results.loss)
    if repeats:  # chance is 1 / 6
        assert results.class_il[-1][-1] >= 0.5
    assert results.class_il == results.task_il  # all tasks have the same classes


@pytest.mark.parametrize(("name", "setting"), sorted({*PAIRS} - {*DECLARED}))
def test_is_refused_in_other_settings(load, name, setting):
    supported = ", ".join(models[name].target.COMPATIBILITY)
    message = f"model '{name}' supports {supported}; dataset '{setting}' is {setting}"
    with pytest.raises(ConfigError, match=message):
        load(name, setting)


def test_a_stream_is_seen_once(load):
    with pytest.raises(ConfigError, match="--n_epochs 2: dataset 'general-continual' is one pass"):
        load("sgd", "general-continual", n_epochs=2)
