"""Typed access to JSON from an untrusted source."""

from collections.abc import Sequence
from typing import Any

from mammoth_compiled.errors import ExportError


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

    def objects(self, key: str) -> "list[JsonFields]":
        """Returns a list of objects."""
        items = self._list(key)
        return [JsonFields(item, f"{self.where}: {key}[{i}]") for i, item in enumerate(items)]

    def optional_objects(self, key: str) -> "dict[str, JsonFields]":
        """Returns an object of objects; empty if the key is absent."""
        if key not in self.content:
            return {}
        parent = self.object(key)
        return {name: parent.object(name) for name in parent.content}

    def string(self, key: str) -> str:
        """Returns a string."""
        return self._string(self._get(key), key)

    def strings(self, key: str) -> tuple[str, ...]:
        """Returns a list of strings."""
        return tuple(self._string(item, key) for item in self._list(key))

    def all_strings(self) -> dict[str, str]:
        """Returns the whole object, whose values must be strings."""
        return {key: self.string(key) for key in self.content}

    def choice(self, key: str, valid: Sequence[str]) -> str:
        """Returns a string that must be one of `valid`."""
        value = self.string(key)
        if value not in valid:
            raise self.error(f"{key} is {value!r}; valid: {', '.join(map(repr, map(str, valid)))}")
        return value

    def boolean(self, key: str) -> bool:
        """Returns true or false."""
        value = self._get(key)
        if not isinstance(value, bool):
            raise self.error(f"{key} must be true or false, not {value!r}")
        return value

    def integer(self, key: str) -> int:
        """Returns an integer >= 0."""
        return self._integer(self._get(key), key)

    def integers(self, key: str) -> tuple[int, ...]:
        """Returns a list of integers >= 0."""
        return tuple(self._integer(item, key) for item in self._list(key))

    def rows(self, key: str, length: int) -> list[tuple[int, ...]]:
        """Returns a list of lists of integers >= 0, all of the given length."""
        rows = [
            tuple(self._integer(item, key) for item in row) if isinstance(row, list) else ()
            for row in self._list(key)
        ]
        if any(len(row) != length for row in rows):
            raise self.error(f"{key} must be a list of lists of {length} numbers")
        return rows

    def number(self, key: str) -> float:
        """Returns a number."""
        return self._number(self._get(key), key)

    def numbers(self, key: str) -> tuple[float, ...]:
        """Returns a list of numbers."""
        return tuple(self._number(item, key) for item in self._list(key))

    def shape(self, key: str) -> tuple[int, ...]:
        """Returns the sizes that follow "batch" in a shape."""
        batch, *sizes = self._list(key) or [None]
        if batch != "batch" or any(self._integer(size, key) < 1 for size in sizes):
            raise self.error(f'{key} must be ["batch", sizes >= 1]')
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
            raise self.error(f"{key} must be a string, not {value!r}")
        return value

    def _integer(self, value: Any, key: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.error(f"{key} must hold whole numbers >= 0, not {value!r}")
        return value

    def _number(self, value: Any, key: str) -> float:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise self.error(f"{key} must hold numbers, not {value!r}")
        return value
