"""Reads JSON that somebody else may have written: every value has the type it should have."""

from collections.abc import Sequence
from typing import Any

from mammoth_compiled.errors import ExportError


class Fields:
    """A JSON object whose fields are read by type.

    Args:
        content: What json.loads gave.
        where: Names the object in messages.

    Raises:
        ExportError: Code `damaged`, if it is no object; so do all methods for a field that is
            missing or of another type.
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

    def object(self, key: str) -> "Fields":
        """Returns an object."""
        return Fields(self._get(key), f"{self.where}: {key}")

    def objects(self, key: str) -> "list[Fields]":
        """Returns the objects of a list."""
        items = self._list(key)
        return [Fields(item, f"{self.where}: {key}[{i}]") for i, item in enumerate(items)]

    def optional_objects(self, key: str) -> "dict[str, Fields]":
        """Returns the objects in an object that may be left out."""
        if key not in self.content:
            return {}
        parent = self.object(key)
        return {name: parent.object(name) for name in parent.content}

    def text(self, key: str) -> str:
        """Returns a text."""
        return self._text(self._get(key), key)

    def texts(self, key: str) -> tuple[str, ...]:
        """Returns a list of texts."""
        return tuple(self._text(item, key) for item in self._list(key))

    def all_texts(self) -> dict[str, str]:
        """Returns the whole object, whose values are texts."""
        return {key: self.text(key) for key in self.content}

    def choice(self, key: str, valid: Sequence[str]) -> str:
        """Returns a text that must be one of some."""
        value = self.text(key)
        if value not in valid:
            raise self.error(f"{key} is {value!r}; valid: {', '.join(map(repr, map(str, valid)))}")
        return value

    def boolean(self, key: str) -> bool:
        """Returns true or false."""
        value = self._get(key)
        if not isinstance(value, bool):
            raise self.error(f"{key} must be true or false, not {value!r}")
        return value

    def number(self, key: str) -> int:
        """Returns a whole number >= 0."""
        return self._number(self._get(key), key)

    def numbers(self, key: str) -> tuple[int, ...]:
        """Returns a list of whole numbers >= 0."""
        return tuple(self._number(item, key) for item in self._list(key))

    def rows(self, key: str, length: int) -> list[tuple[int, ...]]:
        """Returns a list of lists of whole numbers, all of one length."""
        rows = [
            tuple(self._number(item, key) for item in row) if isinstance(row, list) else ()
            for row in self._list(key)
        ]
        if any(len(row) != length for row in rows):
            raise self.error(f"{key} must be a list of lists of {length} numbers")
        return rows

    def real(self, key: str) -> float:
        """Returns a number."""
        return self._real(self._get(key), key)

    def reals(self, key: str) -> tuple[float, ...]:
        """Returns a list of numbers."""
        return tuple(self._real(item, key) for item in self._list(key))

    def shape(self, key: str) -> tuple[int, ...]:
        """Returns the sizes that follow "batch"."""
        batch, *sizes = self._list(key) or [None]
        if batch != "batch" or any(self._number(size, key) < 1 for size in sizes):
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

    def _text(self, value: Any, key: str) -> str:
        if not isinstance(value, str):
            raise self.error(f"{key} must hold text, not {value!r}")
        return value

    def _number(self, value: Any, key: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.error(f"{key} must hold whole numbers >= 0, not {value!r}")
        return value

    def _real(self, value: Any, key: str) -> float:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise self.error(f"{key} must hold numbers, not {value!r}")
        return value
