"""ReturnTypes, DatasetInfo and the messages of errors."""

import json

import pytest

from mammoth_compiled import ReturnTypes
from mammoth_compiled.errors import unknown_name
from mammoth_compiled.types import DatasetInfo

INFO = DatasetInfo(
    name="seq-x",
    input_shape=(3, 8, 8),
    mean=(0.1, 0.2, 0.3),
    std=(1.0, 1.0, 1.0),
    num_classes=5,
    class_names=("a", "b", "c", "d", "e"),
    tasks=((0, 2), (2, 5)),
    tasks_seen=1,
)


@pytest.mark.parametrize("member", ReturnTypes)
def test_members_are_their_strings(member):
    assert member == str(member) == member.value
    assert ReturnTypes(str(member)) is member
    assert {str(member): 1}[member] == 1
    assert f"{member}" == member.value


def test_members():
    members = {"OUT": "out", "FEATURES": "features", "BOTH": "both", "FULL": "full"}
    assert {name: member.value for name, member in ReturnTypes.__members__.items()} == members


@pytest.mark.parametrize("value", ["foo", None, 3])
def test_unknown_value_lists_the_valid_values(value):
    with pytest.raises(ValueError, match="valid values: 'out', 'features', 'both', 'full'"):
        ReturnTypes(value)


@pytest.mark.parametrize(("seen", "classes"), [(0, ()), (1, (0, 1)), (2, (0, 1, 2, 3, 4))])
def test_classes_seen(seen, classes):
    fields = {**INFO.to_dict(), "tasks_seen": seen}
    assert DatasetInfo.from_dict(fields).classes_seen == classes


def test_info_round_trips_through_json():
    assert DatasetInfo.from_dict(json.loads(json.dumps(INFO.to_dict()))) == INFO


def test_unknown_name_without_a_suggestion():
    assert unknown_name("thing", "zzz", ["b", "a"]) == "unknown thing 'zzz'. Valid: a, b"
