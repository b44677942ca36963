"""ResultsWriter: writes the results of a run to a JSON file."""

from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

from mammoth_compiled.config.schema import RunConfig
from mammoth_compiled.console import say
from mammoth_compiled.engine.observer import Observer, Run
from mammoth_compiled.files import check_writable, lock
from mammoth_compiled.results.rescue import write_or_rescue


class ResultsWriter(Observer):
    """Writes accuracies, timings and configuration when the run ends or is interrupted.

    Args:
        path: The file.

    Raises:
        MammothError: If the file cannot be written.
    """

    ORDER: ClassVar[int] = 70
    COMMAND_LINE_ONLY: ClassVar[bool] = True

    @classmethod
    def from_config(cls, config: RunConfig) -> Observer | None:
        """Returns one for `--results_path`."""
        return cls(config.files.results_path) if config.files.results_path else None

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        check_writable(self.path)
        self._locked = ExitStack()
        self._is_written = False

    def begin_run(self, run: Run) -> None:
        """Locks the file.

        Raises:
            MammothError: If another run writes to it.
        """
        self._locked.enter_context(lock(self.path, "results", "--results_path"))

    def keep_results(self, run: Run) -> None:
        """Writes the file.

        Raises:
            MammothError: If it cannot be written; no half-written file stays behind, and the
                message says where the results are.
        """
        write_or_rescue(run.results, self.path)
        self._is_written = True

    def end_run(self, run: Run) -> None:
        """Prints the path."""
        if self._is_written:
            say(f"results: {self.path}")

    def close(self, run: Run) -> None:
        """Releases the lock."""
        self._locked.close()
