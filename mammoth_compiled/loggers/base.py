"""Logger, the base class of all loggers, and what they are given."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from mammoth_compiled.errors import ConfigError


@dataclass(frozen=True)
class LoggedRun:
    """What a logger knows about a run before it starts.

    Attributes:
        name: Name of the run, also of its folder.
        directory: Where the logger writes its files.
        config: The arguments of the run.
        resumed_at: Training steps done when the run was resumed; None for a run from the start.
            What was logged of later steps, before the run was killed, is trained again.
    """

    name: str
    directory: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    resumed_at: int | None = None


@dataclass(frozen=True)
class Point:
    """Values at one time of a run.

    Attributes:
        step: Training steps done, over all tasks.
        task: Current task, from 1.
        epoch: Current epoch of the task, from 1.
        time: Seconds since the epoch of the system (Unix time).
        values: Finite numbers by name, such as `train/loss`.
    """

    step: int
    task: int
    epoch: int
    time: float
    values: Mapping[str, float]


class Logger(ABC):
    """Base class of loggers. A subclass with a `NAME` is available as `--log NAME`.

    Attributes:
        NAME: Its name on the command line.
        PACKAGE: Module that it imports in `begin`, if that is not part of the package.

    Example:
        >>> class Printed(Logger):
        ...     NAME = "printed"
        ...
        ...     def begin(self, run):
        ...         print(run.name)
        ...
        ...     def log(self, point):
        ...         print(point.step, point.values["train/loss"])
    """

    NAME: ClassVar[str] = ""
    PACKAGE: ClassVar[str | None] = None

    @classmethod
    def check_installed(cls) -> None:
        """Checks that the package it needs is installed.

        Raises:
            ConfigError: If not; says how to install it.
        """
        if cls.PACKAGE is not None and find_spec(cls.PACKAGE) is None:
            raise ConfigError(
                f"--log {cls.NAME} needs the package {cls.PACKAGE!r}: pip install "
                '"mammoth-compiled[loggers]"'
            )

    @abstractmethod
    def begin(self, run: LoggedRun) -> None:
        """Called before the first point; opens files.

        Args:
            run: The run.
        """

    @abstractmethod
    def log(self, point: Point) -> None:
        """Writes a point. It is called between training steps, so it must be quick.

        Args:
            point: Training metrics, or those of a task.
        """

    def end(  # noqa: B027 (optional)
        self, summary: Mapping[str, float], tables: Mapping[str, Sequence[Sequence[float]]]
    ) -> None:
        """Called when the run ends or is interrupted, after the last point.

        Args:
            summary: The figures that runs are compared by.
            tables: Accuracy matrices by name; row t holds those after task t.
        """

    def close(self) -> None:  # noqa: B027 (optional)
        """Called last, also after an error, and if `begin` failed; closes files."""
