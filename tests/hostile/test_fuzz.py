"""The fuzz target of the Python readers, with mutations of small valid files.

`tests/hostile/fuzz/readers.py` runs for as long as one likes with Atheris.
"""

import importlib.util
import random
from pathlib import Path

import pytest

TARGET = Path(__file__).parent / "fuzz" / "readers.py"
# A number, not a time: the inputs are the same on every machine.
INPUTS = 1_500
WORDS = (
    b"null",
    b"[]",
    b"{}",
    b"-1",
    b"1e999",
    b'"\\ud800"',
    b"*a",
    b"&a ",
    b"<<: ",
    b"2001-99-99",
)


@pytest.fixture(scope="module")
def target():
    spec = importlib.util.spec_from_file_location("readers", TARGET)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def mutated(draw, data):
    data = bytearray(data)
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(1, len(data) + 1)
        kind = draw.randrange(4)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del data[at : at + draw.randrange(16)]
        elif kind == 2:
            data[at:at] = data[at : at + draw.randrange(16)]
        else:
            data[at : at + draw.randrange(8)] = draw.choice(WORDS)
    return bytes(data)


@pytest.mark.parametrize("number", range(7))
def test_readers_raise_only_their_own_errors(target, number):
    seed, draw = target.seeds()[number], random.Random(number)
    target.read(seed)
    for _ in range(INPUTS):
        target.read(mutated(draw, seed))
