"""Converters from the text of an argument to its value, for `type=` of `add_argument`."""

import argparse
import contextlib
import math
from collections.abc import Callable
from typing import TypeVar

Number = TypeVar("Number", int, float)

_BOOLEANS = {"0": False, "false": False, "no": False, "1": True, "true": True, "yes": True}


def _in_range(
    kind: type[Number], is_valid: Callable[[Number], bool], expected: str
) -> Callable[[str], Number]:
    def convert(text: str) -> Number:
        value = None
        with contextlib.suppress(ValueError):
            value = kind(text)
        if value is None or not is_valid(value):
            raise argparse.ArgumentTypeError(f"must be {expected}, got {text!r}")
        return value

    return convert


positive_int = _in_range(int, lambda value: value >= 1, "an integer >= 1")
non_negative_int = _in_range(int, lambda value: value >= 0, "an integer >= 0")
positive_float = _in_range(float, lambda value: 0 < value < math.inf, "a number > 0")
non_negative_float = _in_range(float, lambda value: 0 <= value < math.inf, "a number >= 0")


def boolean(text: str) -> bool:
    """Converts 0/1, false/true or no/yes, in any case.

    Raises:
        argparse.ArgumentTypeError: If `text` is something else.
    """
    value = _BOOLEANS.get(text.lower())
    if value is None:
        raise argparse.ArgumentTypeError(f"must be 0 or 1, got {text!r}")
    return value
