"""The runs of a command line and a configuration file."""

import pytest

from mammoth_compiled.config.experiments import describe, resolve_experiments
from mammoth_compiled.errors import ConfigError, RegistryError

SGD = {"model": "sgd", "dataset": "seq-tiny"}


def test_precedence(tiny):
    (one,) = resolve_experiments(["--lr", "0.3"], {**SGD, "lr": 0.2, "n_epochs": 4})
    assert (one.args.lr, one.args.n_epochs) == (0.3, 4)
    assert one.origins["lr"] == "given"
    assert one.origins["n_epochs"] == "configuration file"
    assert one.origins["seed"] == "default"


def test_the_command_line_overrides_the_parts_of_the_file(tiny):
    words = ["--model", "er", "--buffer_size", "20"]
    (one,) = resolve_experiments(words, SGD)
    assert (one.args.model, one.args.dataset) == ("er", "seq-tiny")


def test_a_grid_over_models_and_values(tiny):
    file = {"model": ["sgd", "er"], "dataset": "seq-tiny", "lr": [0.1, 0.2], "seed": 0}
    replay = {"buffer_size": [20, 40], "batch_size": [4, 8]}
    runs = resolve_experiments(["--seed", "5"], {**file, **replay})
    # Plain SGD has no buffer, so its size makes no difference.
    assert [run.args.model for run in runs] == ["sgd"] * 4 + ["er"] * 8
    assert {run.args.seed for run in runs} == {5}
    assert [(r.args.model, r.args.lr, r.args.batch_size) for r in runs[:3]] == [
        ("sgd", 0.1, 4),
        ("sgd", 0.1, 8),
        ("sgd", 0.2, 4),
    ]


def test_the_command_line_replaces_an_axis(tiny):
    (one,) = resolve_experiments(["--lr", "0.5"], {**SGD, "lr": [0.1, 0.2]})
    assert one.args.lr == 0.5


def test_description_names_the_sources(tiny):
    words = ["--model", "derpp", "--dataset", "seq-cifar10", "--buffer_size", "200"]
    text = describe(resolve_experiments(words, {})[0])
    (alpha,) = [line for line in text.splitlines() if line.split()[:1] == ["alpha"]]
    assert alpha.split()[1] == "0.1"
    assert alpha.endswith("# best known: Buzzega et al. 2020, arXiv 2004.07211, appendix F")
    (size,) = [line for line in text.splitlines() if line.split()[:1] == ["buffer_size"]]
    assert size.endswith("200  # given")


@pytest.mark.parametrize(
    ("words", "file", "message"),
    [
        ([], {}, "--model is required; valid: "),
        ([], {"model": "sgd"}, "--dataset is required; valid: "),
        ([], {**SGD, "model": 3}, "model: must be a name, got 3"),
        ([], {**SGD, "lrr": 1}, "unknown argument 'lrr'. Did you mean 'lr'"),
        ([], {**SGD, "lr": "fast"}, "argument --lr: "),
    ],
)
def test_errors(tiny, words, file, message):
    with pytest.raises(ConfigError) as caught:
        resolve_experiments(words, file)
    assert message in str(caught.value)


def test_unknown_model_in_a_file(tiny):
    with pytest.raises(RegistryError, match=r"unknown model 'sgdd'\. Did you mean 'sgd'\?"):
        resolve_experiments([], {**SGD, "model": "sgdd"})
