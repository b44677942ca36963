"""The parser that records its arguments and reads a command line or a dictionary."""

import argparse

import pytest

from mammoth_compiled.config import Parser
from mammoth_compiled.errors import ConfigError


@pytest.fixture
def parser():
    parser = Parser(prog="test")
    parser.add_argument("--size", type=int, default=1, help="Size.")
    parser.add_argument("--names", nargs="+")
    parser.add_argument("--level", type=int, choices=[1, 2, 3])
    parser.add_argument("--tag", action="append")
    parser.add_argument("--verbose", action="count")
    parser.add_argument("--fast", action="store_true")
    return parser


def test_arguments_of_all_groups_are_recorded():
    parser = Parser()
    parser.add_argument("--a")
    group = parser.add_argument_group("Group")
    group.add_argument("--b")
    group.add_mutually_exclusive_group().add_argument("--c")
    parser.add_mutually_exclusive_group().add_argument("--d-d")
    assert list(parser.arguments) == ["a", "b", "c", "d_d"]


def test_section_collects_ungrouped_arguments():
    parser = Parser()
    parser.add_argument("--before")
    with parser.section("Mine", "model 'x'"):
        parser.add_argument("--inside", help="Inside.")
        parser.add_mutually_exclusive_group().add_argument("--exclusive")
        parser.add_argument_group("Deeper").add_argument("--deeper")
    parser.add_argument("--after")
    assert parser.owners == {
        "before": "the run",
        "inside": "model 'x'",
        "exclusive": "model 'x'",
        "deeper": "model 'x'",
        "after": "the run",
    }
    text = parser.format_help()
    mine = text[text.index("Mine:") : text.index("Deeper:")]
    assert "--inside" in mine
    assert "--exclusive" in mine
    assert "--before" not in mine
    assert "--after" not in mine


def test_group_attributes_are_those_of_argparse():
    group = Parser().add_argument_group("Group", "Text.")
    assert (group.title, group.description) == ("Group", "Text.")


def test_redefined_argument_replaces_the_earlier_one(parser):
    parser.add_argument("--size", type=float, default=0.5)
    assert parser.defaults()["size"] == 0.5
    assert parser.read(["--size", "2.5"]) == {"size": 2.5}


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ([], {}),
        (["--size", "3"], {"size": 3}),
        (["--size=3", "--fast"], {"size": 3, "fast": True}),
        (["--names", "a", "b"], {"names": ["a", "b"]}),
        (["--tag", "a", "--tag", "b"], {"tag": ["a", "b"]}),
        (["--verbose", "--verbose"], {"verbose": 2}),
    ],
)
def test_command_line_gives_only_what_is_given(parser, words, values):
    assert parser.read(words) == values


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ({}, {}),
        ({"size": "3", "level": 2}, {"size": 3, "level": 2}),
        ({"size": None}, {}),
        ({"names": ["a", "b"]}, {"names": ["a", "b"]}),
        ({"names": "a"}, {"names": ["a"]}),
        ({"fast": False}, {"fast": False}),
    ],
)
def test_dictionary_is_converted_like_a_command_line(parser, given, values):
    assert parser.read(given) == values


def test_values_without_a_type_pass_unchanged():
    parser = Parser()
    parser.add_argument("--anything")
    assert parser.read({"anything": 3}) == {"anything": 3}


def test_required_arguments_may_be_absent_in_read():
    parser = Parser()
    parser.add_argument("--needed", required=True)
    assert parser.arguments["needed"].required
    assert parser.read([]) == {}


def test_defaults_are_converted(parser):
    parser.add_argument("--power", type=int, default="2")
    parser.add_argument("--hidden", default=argparse.SUPPRESS)
    parser.set_defaults(size="7", note="free")
    defaults = parser.defaults()
    assert (defaults["power"], defaults["size"], defaults["note"]) == (2, 7, "free")
    assert "hidden" not in defaults
    assert parser.own_defaults == {"size": "7", "note": "free"}


def test_set_defaults_are_not_given(parser):
    parser.set_defaults(size=7, note="free")
    assert parser.read([]) == {}
    assert parser.read({}) == {}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--siz", "3"], "unknown argument '--siz'. Did you mean '--size'"),
        (["--sizes=3"], "unknown argument '--sizes'. Did you mean '--size'"),
        (["stray"], "unknown argument 'stray'"),
        ({"nam": 1}, "unknown argument 'nam'. Did you mean 'names'"),
        (["--size", "x"], "argument --size: invalid int value: 'x'"),
        ({"size": "x"}, "argument --size: invalid int value: 'x'"),
        ({"level": 4}, "argument --level: invalid choice: 4 (choose from 1, 2, 3)"),
        (["--size", "1", "--size", "2"], "argument --size is given 2 times: give it once"),
        (["--size=1", "--size", "2"], "argument --size is given 2 times: give it once"),
        (["--fast", "--fast"], "argument --fast is given 2 times"),
        (["--size"], "argument --size: expected one argument"),
        ({"fast": "often"}, "argument --fast: must be 0 or 1, got 'often'"),
    ],
)
def test_bad_input_raises(parser, given, message):
    with pytest.raises(ConfigError) as caught:
        parser.read(given)
    assert str(caught.value).startswith(message)


def test_unknown_argument_suggests_the_nearest_three():
    parser = Parser()
    for name in ("optim_a", "optim_b", "optim_c", "optim_d", "other"):
        parser.add_argument(f"--{name}")
    with pytest.raises(ConfigError) as caught:
        parser.read(["--optim_e", "1"])
    suggestion = str(caught.value).split("?")[0]
    assert suggestion.count("--optim_") == 4  # the unknown flag and three suggestions
    assert "--other" not in suggestion


@pytest.mark.parametrize("name", ["fast", "size"])
def test_names_of_dashed_flags_use_underscores(name):
    parser = Parser()
    parser.add_argument(f"--very-{name}", type=int)
    assert parser.read({f"very_{name}": "1"}) == {f"very_{name}": 1}
    with pytest.raises(ConfigError, match=f"argument --very-{name}: invalid int"):
        parser.read({f"very_{name}": "x"})


@pytest.mark.parametrize("given", [["--half", "inf"], {"half": "inf"}], ids=["words", "dictionary"])
def test_converter_of_a_user_that_overflows(parser, given):
    parser.add_argument("--half", type=lambda text: int(float(text)) // 2)
    with pytest.raises(ConfigError, match=r"out of range: cannot convert|argument --half: invalid"):
        parser.read(given)
