"""Mammoth's arguments: renamed, expanded, accepted, or refused with the remedy."""

import pytest

from mammoth_compiled.config.mammoth_arguments import ABSENT, EXPANDED, IGNORED, RENAMED, translate
from mammoth_compiled.errors import ConfigError

KNOWN = {
    "lr",
    "noise_type",
    "data_dir",
    "lr_scheduler",
    "lr_gamma",
    "compile",
    "amp",
    "precision",
    "out",
}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--lr", "0.1"], ["--lr", "0.1"]),
        (["--base_path", "x"], ["--data_dir", "x"]),
        (["--base_path=x", "--lr", "1"], ["--data_dir", "x", "--lr", "1"]),
        (["--lr_scheduler", "multisteplr"], ["--lr_scheduler", "multistep"]),
        (["--lr_scheduler=cosine"], ["--lr_scheduler=cosine"]),
        (["-O", "3"], ["--compile", "on", "--amp", "bf16"]),
        (["-O0", "--lr", "1"], ["--compile", "off", "--precision", "highest", "--lr", "1"]),
        (["--noise_type", "sym"], ["--noise_type", "symmetric"]),
        (["--noise_type", "symmetric"], ["--noise_type", "symmetric"]),
        (["--validation_mode", "current", "--lpt", "1"], []),
        (["--early_stopping_freq=1", "--early_stopping_epsilon", "1e-6"], []),
        (["--nowand", "1", "--lr", "1"], ["--lr", "1"]),
        (["--load_best_args", "--lr", "1"], ["--lr", "1"]),
        (["--distributed", "no"], []),
        (["--early_stopping", "--lr", "1"], ["--fitting_mode", "early_stopping", "--lr", "1"]),
        (["--early_stopping", "0"], []),
        (["--unknown", "1"], ["--unknown", "1"]),
        (["--base_path"], ["--data_dir"]),
    ],
)
def test_command_line(words, expected):
    assert translate(words, KNOWN) == expected


def test_dictionary():
    given = {"base_path": "x", "code_optimization": 0, "lr": 0.1, "nowand": True, "seed": None}
    assert translate(given, KNOWN) == {
        "data_dir": "x",
        "compile": "off",
        "precision": "highest",
        "lr": 0.1,
        "seed": None,
    }


@pytest.mark.parametrize("name", [*RENAMED, *IGNORED, *ABSENT, *EXPANDED])
def test_arguments_of_user_code_are_not_touched(name):
    words = [f"--{name}", "some value"]
    assert translate(words, {*KNOWN, name}) == words
    assert translate({name: "some value"}, {*KNOWN, name}) == {name: "some value"}


@pytest.mark.parametrize("name", ABSENT)
def test_absent_arguments_name_the_remedy(name):
    for given in ([f"--{name}", "other"], {name: "other"}):
        with pytest.raises(ConfigError, match=f"argument (--)?{name}: Mammoth's") as caught:
            translate(given, KNOWN)
        assert ABSENT[name] in str(caught.value)


def test_invalid_values_name_the_valid_ones():
    with pytest.raises(
        ConfigError, match="--code_optimization: must be one of 0, 1, 2, 3, got '9'"
    ):
        translate(["--code_optimization", "9"], KNOWN)
