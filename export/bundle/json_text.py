"""Parses JSON from an untrusted source, as strictly as the C++ runtime does."""

import json
import math
from typing import Any

MAX_DEPTH = 64


def parse_json(text: str) -> Any:
    """Returns the value that a JSON text describes.

    Unlike `json.loads`, it refuses NaN, infinities, numbers beyond float64, surrogates without a
    partner and values nested more than 64 deep.

    Raises:
        ValueError: If the text is not such a JSON text; says why.
    """
    try:
        value = json.loads(
            text, parse_constant=_no_constant, parse_float=_finite, parse_int=_integer
        )
        _check_depth(value)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep") from None
    return value


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} exceeds float64")
    return value


def _integer(text: str) -> int:
    _finite(text)
    return int(text)


def _check_depth(value: Any, depth: int = 0) -> None:
    if not isinstance(value, (dict, list)):
        return
    if depth >= MAX_DEPTH:
        raise RecursionError
    for child in value.values() if isinstance(value, dict) else value:
        _check_depth(child, depth + 1)
