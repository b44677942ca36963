"""Loggers: where the metrics of a run are written; one a file."""

from mammoth_compiled.errors import ConfigError, unknown_name
from mammoth_compiled.loggers.base import LoggedRun, Logger, Point
from mammoth_compiled.plugins import import_submodules

import_submodules(__name__, __path__)

__all__ = ["LoggedRun", "Logger", "Point", "logger_classes"]


def logger_classes(names: str | None = None) -> list[type[Logger]]:
    """Returns loggers by name.

    Args:
        names: Comma-separated names; None for all loggers.

    Raises:
        ConfigError: If a name is unknown, or a package that a logger needs is not installed.

    Example:
        >>> [cls.NAME for cls in logger_classes("jsonl, csv")]
        ['jsonl', 'csv']
    """
    known: dict[str, type[Logger]] = {}
    stack = Logger.__subclasses__()
    while stack:
        cls = stack.pop(0)
        if cls.NAME:
            known[cls.NAME] = cls
        stack += cls.__subclasses__()
    if names is None:
        return [known[name] for name in sorted(known)]
    found = []
    for name in map(str.strip, names.split(",")):
        if name not in known:
            raise ConfigError(f"--log: {unknown_name('logger', name, known)}")
        known[name].check_installed()
        found.append(known[name])
    return found
