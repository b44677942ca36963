"""TextFileLogger: what loggers that write lines to a file have in common."""

from abc import abstractmethod
from pathlib import Path
from typing import ClassVar, TextIO

from mammoth_compiled.errors import MammothError
from mammoth_compiled.files import write_atomically
from mammoth_compiled.loggers.base import LoggedRun, Logger


class TextFileLogger(Logger):
    """Writes lines. A resumed run continues the file after the step that it resumes at.

    Attributes:
        FILE: Name of the file.
        HEADER: Its first line, "" for none.
    """

    FILE: ClassVar[str]
    HEADER: ClassVar[str] = ""

    def __init__(self) -> None:
        self._file: TextIO | None = None

    @staticmethod
    @abstractmethod
    def step_of(line: str) -> int:
        """Returns the step of a line that was written before.

        Raises:
            ValueError: If the line is not complete.
        """

    def begin(self, run: LoggedRun) -> None:
        """Opens the file.

        Raises:
            MammothError: If it cannot be written.
        """
        path = run.directory / self.FILE
        kept = [] if run.resumed_at is None else self._lines_until(path, run.resumed_at)
        write_atomically(path, (self.HEADER + "".join(kept)).encode())
        try:
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise MammothError(f"cannot write {path}: {error}") from error

    def _lines_until(self, path: Path, step: int) -> list[str]:
        """Returns the lines of a file up to a step; later ones are of training that is repeated."""
        if not path.is_file():
            return []
        kept = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
            try:
                if self.step_of(line) <= step:
                    kept.append(line)
            except (ValueError, KeyError):  # the header, and what a killed process left
                continue
        return kept

    def write(self, text: str) -> None:
        """Writes lines, so that a reader of the file sees them at once."""
        assert self._file is not None
        self._file.write(text)
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
