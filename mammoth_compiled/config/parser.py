"""An `ArgumentParser` that knows its arguments and reads a command line or a dictionary."""

import argparse
import contextlib
import os
from argparse import Action, ArgumentParser, Namespace
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mammoth_compiled.config.values import (
    boolean,
    check_text,
    comma_list,
    file_name,
    file_path,
    free_text,
    non_empty,
    non_negative_int,
)
from mammoth_compiled.errors import ConfigError, shorten, unknown_argument

# Actions for which giving a flag twice is a mistake; append, extend and count are not among them.
_SINGLE = ("store", "store_const", "store_true", "store_false")
# Converters whose values are texts; a dictionary must not give them numbers.
_TEXTS = (str, non_empty, free_text, comma_list, file_path, file_name)


class _Group:
    """An argument group that reports the arguments added to it, also through nested groups."""

    def __init__(self, group: Any, record: Callable[[Action, Any], Action]) -> None:
        self._group = group
        self._record = record

    def add_argument(self, *flags: str, **options: Any) -> Action:
        """Adds an argument; see `argparse`."""
        return self._record(
            self._group.add_argument(*flags, **options), options.get("action", "store")
        )

    def add_mutually_exclusive_group(self, **options: Any) -> "_Group":
        """Adds a mutually exclusive group; see `argparse`."""
        return _Group(self._group.add_mutually_exclusive_group(**options), self._record)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._group, name)


class Parser(ArgumentParser):
    """Records the arguments and who defined them, and raises `ConfigError` instead of exiting.

    A flag that is defined again replaces the earlier one, flags cannot be abbreviated, and there is
    no `--help` unless it is added.

    Args:
        **options: As for `argparse.ArgumentParser`.

    Attributes:
        arguments: The arguments by name.
        owners: Who defined each argument, for messages: "model 'derpp'".
        own_defaults: Values set with `set_defaults`.
        models_with: Returns the models that have an argument of a name, for messages.
    """

    def __init__(self, **options: Any) -> None:
        self.arguments: dict[str, Action] = {}
        self.owners: dict[str, str] = {}
        self.own_defaults: dict[str, Any] = {}
        self.models_with: Callable[[str], Sequence[str]] = lambda name: ()
        self._repeatable: set[str] = set()
        self._section: _Group | None = None
        self._owner = "the run"
        ours = {"add_help": False, "allow_abbrev": False, "conflict_handler": "resolve"}
        super().__init__(**{**ours, **options})

    def error(self, message: str) -> Any:
        """Raises `ConfigError` with the message."""
        raise ConfigError(message)

    @contextlib.contextmanager
    def section(self, title: str, owner: str) -> Iterator[None]:
        """Collects arguments that are added to the parser itself in a group of the help.

        Args:
            title: Heading of the group.
            owner: Who defines the arguments, for messages.
        """
        before = self._section, self._owner
        self._section, self._owner = self.add_argument_group(title), owner
        try:
            yield
        finally:
            self._section, self._owner = before

    def _record(self, action: Action, kind: Any) -> Action:
        self.arguments[action.dest] = action
        self.owners[action.dest] = self._owner
        if kind not in _SINGLE:
            self._repeatable.add(action.dest)
        return action

    def add_argument(self, *flags: str, **options: Any) -> Action:
        """Adds an argument; see `argparse`."""
        if self._section is not None:
            return self._section.add_argument(*flags, **options)
        return self._record(super().add_argument(*flags, **options), options.get("action", "store"))

    def add_argument_group(self, *args: Any, **options: Any) -> Any:
        """Adds an argument group; see `argparse`."""
        return _Group(super().add_argument_group(*args, **options), self._record)

    def add_mutually_exclusive_group(self, **options: Any) -> Any:
        """Adds a mutually exclusive group; see `argparse`."""
        if self._section is not None:
            return self._section.add_mutually_exclusive_group(**options)
        return _Group(super().add_mutually_exclusive_group(**options), self._record)

    def set_defaults(self, **values: Any) -> None:
        """Sets default values; see `argparse`."""
        self.own_defaults |= values
        super().set_defaults(**values)

    def defaults(self) -> dict[str, Any]:
        """Returns the default of every argument, strings converted as on the command line."""
        values = {name: self.get_default(name) for name in self.arguments} | self.own_defaults
        return {
            name: self._default(name, value)
            for name, value in values.items()
            if value is not argparse.SUPPRESS
        }

    def _default(self, name: str, value: Any) -> Any:
        action = self.arguments.get(name)
        convert = action.type if action is not None else None
        return convert(value) if isinstance(value, str) and callable(convert) else value

    def read(self, given: Mapping[str, Any] | Sequence[str]) -> dict[str, Any]:
        """Returns the arguments that are given, without defaults.

        Required arguments may be missing: their values may come from elsewhere.

        Args:
            given: Values by name, None meaning not given; or the words of a command line.

        Raises:
            ConfigError: If an argument is unknown, given twice, of the wrong type or out of range.
        """
        if isinstance(given, Mapping):
            for name in given:
                if name not in self.arguments:
                    raise self._unknown(name, self.arguments)
            values = {name: value for name, value in given.items() if value is not None}
            values = {name: self._convert(name, value) for name, value in values.items()}
            self._check_values(values)
            return values
        values, unknown = self.read_known(given)
        if unknown:
            raise self._unknown(unknown[0].split("=")[0], [f"--{name}" for name in self.arguments])
        return values

    def _unknown(self, name: str, valid: Iterable[str]) -> ConfigError:
        models = self.models_with(str(name).removeprefix("--"))
        return ConfigError(unknown_argument(name, valid, models))

    def read_known(self, words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """Returns the arguments that are given, without defaults, and the words of all others.

        Raises:
            ConfigError: If an argument is given twice, of the wrong type or out of range.
        """
        for action in self.arguments.values():
            action.required = False
        self._reject_repeated(words)
        # Argparse sets no default for what the namespace has already; None means not given.
        names = {*self.arguments, *self.own_defaults}
        try:
            args, unknown = self.parse_known_args(list(words), Namespace(**dict.fromkeys(names)))
        except ArithmeticError as error:  # of a user's converter; argparse expects others
            raise ConfigError(f"an argument is out of range: {error}") from error
        values = {name: value for name, value in vars(args).items() if value is not None}
        self._check_values(values)
        return values, unknown

    def _check_values(self, values: Mapping[str, Any]) -> None:
        """Checks what no argument may be, whatever its own type accepts."""
        for name, value in values.items():
            for item in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(item, float) and item != item:
                    raise ConfigError(f"argument {self._flag(name)}: must be a number, got nan")
                if isinstance(item, str):
                    try:
                        check_text(item)
                    except argparse.ArgumentTypeError as error:
                        raise ConfigError(f"argument {self._flag(name)}: {error}") from None

    def _flag(self, name: str) -> str:
        action = self.arguments.get(name)
        return action.option_strings[0] if action and action.option_strings else name

    def _reject_repeated(self, words: Iterable[str]) -> None:
        used = Counter(word.split("=")[0] for word in words)
        for name, action in self.arguments.items():
            times = sum(used[flag] for flag in action.option_strings)
            if times > 1 and name not in self._repeatable:
                flag = action.option_strings[0]
                raise ConfigError(f"argument {flag} is given {times} times: give it once")

    def _convert(self, name: str, value: Any) -> Any:
        """Converts a value, or every value of a list, as the command line converts its text."""
        action, flag = self.arguments[name], self._flag(name)
        if action.nargs == 0:  # the dictionary holds the value, not whether the flag is given
            if isinstance(action.const, bool):
                return convert_value(flag, value, boolean)
            return convert_value(flag, value, non_negative_int) if action.const is None else value
        if action.nargs in ("+", "*") or isinstance(action.nargs, int):
            values = list(value) if isinstance(value, (list, tuple, np.ndarray)) else [value]
            if isinstance(action.nargs, int) and len(values) != action.nargs:
                raise ConfigError(
                    f"argument {flag}: expected {action.nargs} values, got {len(values)}"
                )
            if action.nargs == "+" and not values:
                raise ConfigError(f"argument {flag}: expected at least one value")
            return [convert_value(flag, v, action.type, action.choices) for v in values]
        return convert_value(flag, value, action.type, action.choices)


def _check_scalar(flag: str, value: Any, convert: Any) -> None:
    """Raises `ConfigError` for a value of a dictionary that is not a text or a number."""
    is_text = convert in _TEXTS
    valid: tuple[Any, ...] = (str, os.PathLike)
    if not is_text:
        valid = (*valid, int, float, np.number, np.bool_)
    if not isinstance(value, valid):
        raise ConfigError(
            f"argument {flag}: must be {'a text' if is_text else 'one text or number'}, got the "
            f"{type(value).__name__} {shorten(value)}"
        )


def convert_value(flag: str, value: Any, convert: Any, choices: Iterable[Any] | None = None) -> Any:
    """Converts one value as `argparse` converts the text of an argument.

    Args:
        flag: The argument, for messages.
        value: The value, converted from its text if there is a converter.
        convert: The argument's `type`, or None.
        choices: The argument's `choices`, or None.

    Raises:
        ConfigError: If the value cannot be converted or is not one of the choices.
    """
    if convert is not None or choices is not None:
        _check_scalar(flag, value, convert)
    if convert is not None:
        try:
            value = convert(str(value))
        except argparse.ArgumentTypeError as error:
            raise ConfigError(f"argument {flag}: {error}") from None
        except (TypeError, ValueError, ArithmeticError):
            kind = getattr(convert, "__name__", repr(convert))
            raise ConfigError(
                f"argument {flag}: invalid {kind} value: {shorten(str(value))}"
            ) from None
    valid = None if choices is None else list(choices)
    if valid is not None and value not in valid:
        names = ", ".join(map(str, valid))
        raise ConfigError(
            f"argument {flag}: invalid choice: {shorten(value)} (choose from {names})"
        )
    return value
