"""Typed access to JSON from an untrusted source."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mammoth_compiled.errors import ExportError, shorten

# Bounds that the C++ runtime shares: integers that every JSON parser reads exactly, values of an
# image or output, and dimensions after the batch.
LARGEST_INTEGER, LARGEST_SIZE, MOST_DIMENSIONS = 2**53, 2**30, 7
MAX_FLOAT32 = float(np.finfo(np.float32).max)


class JsonFields:
    """A JSON object whose fields are checked for their type when they are read.

    Every method raises ExportError with code `damaged` if the field is missing or has another
    type.

    Args:
        content: The parsed JSON.
        where: Name of the object in messages.

    Raises:
        ExportError: Code `damaged`, if `content` is not an object.
    """

    def __init__(self, content: Any, where: str) -> None:
        self.where = where
        if not isinstance(content, dict):
            raise self.error("must be a JSON object")
        self.content: dict[str, Any] = content

    def error(self, message: str) -> ExportError:
        """Returns the error to raise."""
        return ExportError(
            f"{self.where}: {message}. The manifest is damaged: export again", "damaged"
        )

    def object(self, key: str) -> "JsonFields":
        """Returns an object."""
        return JsonFields(self._get(key), f"{self.where}: {key}")

    def optional(self, key: str) -> "JsonFields | None":
        """Returns an object, or None if it is absent or null."""
        return None if self.content.get(key) is None else self.object(key)

    def objects(self, key: str) -> "list[JsonFields]":
        """Returns a list of objects."""
        items = self._list(key)
        return [JsonFields(item, f"{self.where}: {key}[{i}]") for i, item in enumerate(items)]

    def optional_objects(self, key: str) -> "dict[str, JsonFields]":
        """Returns an object of objects; empty if it is absent or null."""
        parent = self.optional(key)
        return {name: parent.object(name) for name in parent.content} if parent else {}

    def string(self, key: str) -> str:
        """Returns a string."""
        return self._string(self._get(key), key)

    def optional_string(self, key: str) -> str:
        """Returns a string; empty if it is absent or null."""
        return "" if self.content.get(key) is None else self.string(key)

    def strings(self, key: str) -> tuple[str, ...]:
        """Returns a list of strings."""
        return tuple(self._string(item, key) for item in self._list(key))

    def all_strings(self) -> dict[str, str]:
        """Returns the whole object, whose values must be strings."""
        return {key: self.string(key) for key in self.content}

    def optional_strings(self, key: str) -> dict[str, str]:
        """Returns an object of strings; empty if it is absent or null."""
        found = self.optional(key)
        return found.all_strings() if found else {}

    def all_numbers(self) -> dict[str, float]:
        """Returns the whole object, whose values must be numbers."""
        return {key: self.number(key) for key in self.content}

    def choice(self, key: str, valid: Sequence[str]) -> str:
        """Returns a string that must be one of `valid`."""
        value = self.string(key)
        if value not in valid:
            raise self.error(
                f"{key} is {shorten(value)}; valid: {', '.join(map(repr, map(str, valid)))}"
            )
        return value

    def boolean(self, key: str) -> bool:
        """Returns true or false."""
        value = self._get(key)
        if not isinstance(value, bool):
            raise self.error(f"{key} must be true or false, not {shorten(value)}")
        return value

    def integer(self, key: str, most: int = LARGEST_INTEGER) -> int:
        """Returns an integer from 0 to `most`."""
        return self._integer(self._get(key), key, most)

    def positive_integer(self, key: str) -> int:
        """Returns an integer >= 1."""
        value = self.integer(key)
        if value < 1:
            raise self.error(f"{key} must hold whole numbers >= 1, not {value}")
        return value

    def integers(self, key: str) -> tuple[int, ...]:
        """Returns a list of such integers."""
        return tuple(self._integer(item, key) for item in self._list(key))

    def rows(self, key: str, length: int) -> list[tuple[int, ...]]:
        """Returns a list of lists of such integers, all of the given length."""
        rows = [
            tuple(self._integer(item, key) for item in row) if isinstance(row, list) else ()
            for row in self._list(key)
        ]
        if any(len(row) != length for row in rows):
            raise self.error(f"{key} must be a list of lists of {length} numbers")
        return rows

    def number(self, key: str) -> float:
        """Returns a number that float32 can hold."""
        return self._number(self._get(key), key)

    def numbers(self, key: str) -> tuple[float, ...]:
        """Returns a list of such numbers."""
        return tuple(self._number(item, key) for item in self._list(key))

    def size(self, key: str) -> float:
        """Returns a number >= 0."""
        value = self.number(key)
        if value < 0:
            raise self.error(f"{key} must not be negative, but is {value}")
        return value

    def shape(self, key: str) -> tuple[int, ...]:
        """Returns the sizes that follow "batch" in a shape."""
        batch, *sizes = self._list(key) or [None]
        if batch != "batch" or any(self._integer(size, key) < 1 for size in sizes):
            raise self.error(f'{key} must be ["batch", sizes >= 1]')
        if not 1 <= len(sizes) <= MOST_DIMENSIONS or math.prod(sizes) > LARGEST_SIZE:
            raise self.error(
                f"{key} must have 1 to {MOST_DIMENSIONS} sizes and at most {LARGEST_SIZE} values"
            )
        return tuple(sizes)

    def _get(self, key: str) -> Any:
        if key not in self.content:
            raise self.error(f"{key} is missing")
        return self.content[key]

    def _list(self, key: str) -> list[Any]:
        value = self._get(key)
        if not isinstance(value, list):
            raise self.error(f"{key} must be a list")
        return value

    def _string(self, value: Any, key: str) -> str:
        if not isinstance(value, str):
            raise self.error(f"{key} must be a string, not {shorten(value)}")
        return value

    def _integer(self, value: Any, key: str, most: int = LARGEST_INTEGER) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
            raise self.error(
                f"{key} must hold whole numbers >= 0 and <= {most}, not {shorten(value)}"
            )
        return value

    def _number(self, value: Any, key: str) -> float:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise self.error(f"{key} must hold numbers, not {shorten(value)}")
        if not abs(value) <= MAX_FLOAT32:
            raise self.error(f"{key} must hold numbers that float32 can hold, not {value}")
        return value
