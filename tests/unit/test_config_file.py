"""Configuration files: YAML as users write it, grids, and clear errors."""

import pytest

from mammoth_compiled.config.config_file import expand_grid, read_config_file
from mammoth_compiled.errors import ConfigError


@pytest.fixture
def read(tmp_path):
    path = tmp_path / "exp.yaml"

    def read(text):
        path.write_text(text)
        return read_config_file(str(path))

    return read


def test_values_have_the_types_of_a_command_line(read):
    assert read("compile: off\nlr: 0.1\njoint: true\nlr_milestones: [2, 4]\nseed: 3") == {
        "compile": "off",
        "lr": 0.1,
        "joint": True,
        "lr_milestones": [2, 4],
        "seed": 3,
    }


def test_sections_are_flattened(read):
    assert read("model: er\noptimizer:\n  lr: 0.1\nextra:\n  alpha: 1") == {
        "model": "er",
        "lr": 0.1,
        "alpha": 1,
    }


def test_an_empty_file_gives_nothing(read):
    assert read("") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1", "must give arguments by name"),
        ("lr: [1", "not YAML"),
        ("lr: 1\nlr: 2", "lr is given twice"),
        ("oven:\n  lr: 1", "'oven' is not a section; valid: experiment, "),
        ("1: 2", "1 is not the name of an argument"),
        ("a: !!python/object:os.system {}", "not YAML"),
    ],
)
def test_invalid_files(read, text, message):
    with pytest.raises(ConfigError, match=r"^--config .*exp.yaml: ") as caught:
        read(text)
    assert message in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_config_file(str(tmp_path / "none.yaml"))


def test_grid_has_every_combination():
    grid = expand_grid({"a": [1, 2], "b": "x", "c": [3, 4]}, lists=())
    assert [(run["a"], run["b"], run["c"]) for run in grid] == [
        (1, "x", 3),
        (1, "x", 4),
        (2, "x", 3),
        (2, "x", 4),
    ]


def test_a_list_is_one_value_of_an_argument_that_takes_several():
    assert expand_grid({"m": [1, 2]}, lists=("m",)) == [{"m": [1, 2]}]
    assert expand_grid({"m": [[1, 2], [3]]}, lists=("m",)) == [{"m": [1, 2]}, {"m": [3]}]


def test_no_alternatives():
    with pytest.raises(ConfigError, match="lr: an empty list"):
        expand_grid({"lr": []}, lists=())
