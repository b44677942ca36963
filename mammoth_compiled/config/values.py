"""Converters from the text of an argument to its value, for `type=` of `add_argument`."""

import argparse
import contextlib
import math
import os
from collections.abc import Callable
from typing import TypeVar

from mammoth_compiled.command_line import (
    MAX_FILE_NAME,
    check_text,
    file_path,
    non_empty,
)
from mammoth_compiled.errors import shorten

Number = TypeVar("Number", int, float)

# Counts and sizes; larger ones overflow the 32-bit indices of libraries below torch.
MAX_COUNT = 2**31 - 1
# torch.manual_seed and tensor sizes take signed 64-bit integers.
MAX_INT64 = 2**63 - 1
# More runs than that in one command are a typing error.
MAX_SEEDS = 10_000

_BOOLEANS = {"0": False, "false": False, "no": False, "1": True, "true": True, "yes": True}


def _number(
    kind: type[Number],
    is_valid: Callable[[Number], bool],
    expected: str,
    maximum: float = math.inf,
) -> Callable[[str], Number]:
    def convert(text: str) -> Number:
        value = None
        # Python also reads 1_000 and digits of other scripts, which are typing errors here.
        if text.isascii() and "_" not in text:
            with contextlib.suppress(ValueError):
                value = kind(text)
        if value is None or not is_valid(value):
            raise argparse.ArgumentTypeError(f"must be {expected}, got {shorten(text)}")
        if value > maximum:
            raise argparse.ArgumentTypeError(f"must be at most {maximum:,}, got {shorten(text)}")
        return value

    return convert


def int_from(minimum: int) -> Callable[[str], int]:
    """Returns a converter to integers that are at least `minimum` and at most 2**31 - 1."""
    return _number(int, lambda value: value >= minimum, f"an integer >= {minimum}", MAX_COUNT)


def float_from(minimum: float) -> Callable[[str], float]:
    """Returns a converter to finite numbers that are at least `minimum`."""
    return _number(float, lambda value: minimum <= value < math.inf, f"a number >= {minimum:g}")


positive_int = int_from(1)
non_negative_int = int_from(0)
seed_int = _number(int, lambda value: value >= 0, "an integer >= 0", MAX_INT64)
any_int = _number(int, lambda value: value >= -MAX_INT64, "an integer", MAX_INT64)
positive_float = _number(float, lambda value: 0 < value < math.inf, "a number > 0")
non_negative_float = float_from(0)
finite_float = _number(float, math.isfinite, "a finite number")
probability = _number(float, lambda value: 0 <= value <= 1, "a number between 0 and 1")
fraction = _number(float, lambda value: 0 <= value < 1, "a number >= 0 and below 1")


def fraction_or_percentage(text: str) -> float:
    """Converts a fraction above 0 and below 1, or a percentage from 1 and below 100.

    Raises:
        argparse.ArgumentTypeError: If `text` is something else.
    """
    value = positive_float(text)
    if value >= 100:
        raise argparse.ArgumentTypeError(
            f"must be a fraction below 1 or a percentage from 1 and below 100, got {shorten(text)}"
        )
    return value


def fraction_or_count(text: str) -> float:
    """Converts a fraction above 0 and below 1, or an integer >= 1.

    Raises:
        argparse.ArgumentTypeError: If `text` is something else.
    """
    value = positive_float(text)
    if value >= 1 and not value.is_integer():
        raise argparse.ArgumentTypeError(
            f"must be a fraction below 1 or an integer >= 1, got {shorten(text)}"
        )
    return value


def _is_class_id(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_COUNT))


def class_list(text: str) -> str:
    """Checks comma-separated class ids and ranges of them, "4,2,0-1" for example.

    Raises:
        argparse.ArgumentTypeError: If a part is something else.
    """
    for part in text.split(","):
        ends = part.strip().split("-")
        if len(ends) > 2 or not all(_is_class_id(end) for end in ends):
            raise argparse.ArgumentTypeError(
                f"must be class ids >= 0 and ranges, as in 4,2,0-1, got {shorten(text)}"
            )
    return text


def boolean(text: str) -> bool:
    """Converts 0/1, false/true or no/yes, in any case.

    Raises:
        argparse.ArgumentTypeError: If `text` is something else.
    """
    value = _BOOLEANS.get(text.lower())
    if value is None:
        raise argparse.ArgumentTypeError(f"must be 0 or 1, got {shorten(text)}")
    return value


def comma_list(text: str) -> str:
    """Checks comma-separated names.

    Raises:
        argparse.ArgumentTypeError: If there is none, one is empty or one is given twice.
    """
    items = [item.strip() for item in non_empty(text).split(",")]
    if not all(items):
        raise argparse.ArgumentTypeError(f"has an empty item, got {shorten(text)}: remove a comma")
    if len(set(items)) < len(items):
        raise argparse.ArgumentTypeError(f"names an item twice, got {shorten(text)}")
    return text


def seed_list(text: str) -> list[int]:
    """Converts seeds, `0-9` or `0,3,5` or both, to a list.

    Raises:
        argparse.ArgumentTypeError: If there is none, one is invalid or one is given twice.
    """
    seeds: list[int] = []
    for item in non_empty(text).split(","):
        first, dash, last = item.partition("-")
        start = seed_int(first.strip())
        stop = seed_int(last.strip()) if dash else start
        if stop < start or stop - start >= MAX_SEEDS:
            raise argparse.ArgumentTypeError(
                f"{shorten(item)} is not a range of at most {MAX_SEEDS:,} seeds, as 0-9 is"
            )
        seeds += range(start, stop + 1)
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"names a seed twice, got {shorten(text)}")
    return seeds


def free_text(text: str) -> str:
    """Checks a text that may be anything a file of results can hold, apart from nothing.

    Raises:
        argparse.ArgumentTypeError: If not.
    """
    return check_text(non_empty(text))


def file_name(text: str) -> str:
    """Checks that a file may have this name, with a suffix of up to 32 bytes.

    Raises:
        argparse.ArgumentTypeError: If not.
    """
    if "/" in text or text in (".", ".."):
        raise argparse.ArgumentTypeError(f"must be a name without /, got {shorten(text)}")
    if len(os.fsencode(file_path(text))) > MAX_FILE_NAME - 32:
        raise argparse.ArgumentTypeError(f"must have at most {MAX_FILE_NAME - 32} bytes")
    return text


def interval(text: str) -> str:
    """Checks an interval of training steps or of time.

    Raises:
        argparse.ArgumentTypeError: If it is none.
    """
    parse_interval(text)
    return text


def parse_interval(text: str) -> tuple[int | None, float | None]:
    """Returns an interval as (training steps, None) or (None, seconds).

    Args:
        text: A number of steps, or of seconds, minutes or hours followed by s, m or h.

    Raises:
        argparse.ArgumentTypeError: If it is something else.

    Example:
        >>> parse_interval("500"), parse_interval("10m")
        ((500, None), (None, 600.0))
    """
    unit = {"s": 1, "m": 60, "h": 3600}.get(text[-1:])
    try:
        return (
            (positive_int(text), None) if unit is None else (None, unit * positive_float(text[:-1]))
        )
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            "must be a number of steps, or of seconds, minutes or hours with s, m or h, such as "
            f"500 or 10m; got {shorten(text)}"
        ) from None
