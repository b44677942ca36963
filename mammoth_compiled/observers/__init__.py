"""Observers of a run: what is printed, drawn and written while it trains; one a file."""

from collections.abc import Iterator

from mammoth_compiled.config.schema import RunConfig
from mammoth_compiled.distributed import rank
from mammoth_compiled.engine.observer import Observer
from mammoth_compiled.plugins import import_submodules

import_submodules(__name__, __path__)

__all__ = ["command_line_observers", "default_observers", "observer_classes"]


def default_observers(config: RunConfig) -> list[Observer]:
    """Returns the observers that every run with these arguments has.

    Args:
        config: All arguments.
    """
    return list(_from_config(config, command_line_only=False))


def command_line_observers(config: RunConfig) -> list[Observer]:
    """Returns the observers that a run from the command line has in addition.

    Args:
        config: All arguments.

    Raises:
        MammothError: If one of them cannot write its output.
    """
    return list(_from_config(config, command_line_only=True))


def observer_classes() -> list[type[Observer]]:
    """Returns all subclasses of `Observer` in the order in which they are notified.

    A class that is defined again, as when a notebook cell runs twice, replaces the earlier one.
    """
    found: dict[tuple[str, str], type[Observer]] = {}
    stack = Observer.__subclasses__()
    while stack:
        cls = stack.pop(0)
        found[cls.__module__, cls.__qualname__] = cls
        stack += cls.__subclasses__()
    return sorted(found.values(), key=lambda cls: cls.ORDER)


def _from_config(config: RunConfig, command_line_only: bool) -> Iterator[Observer]:
    if rank():  # the first rank of data-parallel training speaks and writes for all
        return
    for cls in observer_classes():
        if command_line_only == cls.COMMAND_LINE_ONLY:
            observer = cls.from_config(config)
            if observer is not None:
                yield observer
