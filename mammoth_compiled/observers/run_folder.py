"""RunFolder: configuration, console output and results of a run in one folder."""

import contextlib
import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

from mammoth_compiled.config.schema import RunConfig
from mammoth_compiled.console import copied_to
from mammoth_compiled.engine.observer import Observer, Run
from mammoth_compiled.engine.run_folder import (
    CONFIG,
    LOG,
    REPORT,
    RESULTS,
    check_folder,
    config_text,
    folder_of,
)
from mammoth_compiled.errors import MammothError
from mammoth_compiled.files import lock, write_atomically
from mammoth_compiled.results.rescue import write_or_rescue


class RunFolder(Observer):
    """Writes `config.yaml` and `log.txt` first, and `results.json` and `report.html` in the end.

    A run that fails before its first task leaves no folder, unless it resumed in an earlier one.

    Args:
        path: The folder; it is created when the run begins.
    """

    # First, because others write into the folder.
    ORDER: ClassVar[int] = -10

    @classmethod
    def from_config(cls, config: RunConfig) -> Observer | None:
        """Returns one for `--out`, which the command line always gives.

        Raises:
            MammothError: If the folder contains something else.
        """
        folder = folder_of(config)
        if folder is None:
            return None
        check_folder(folder, config)
        return cls(folder)

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._open = ExitStack()
        self._is_unused = False

    def begin_run(self, run: Run) -> None:
        """Creates and locks the folder, writes the configuration and opens the log.

        Raises:
            MammothError: If it cannot be written, or another run writes to it.
        """
        self._open.enter_context(lock(self.path, "its results", "--out"))
        self._is_unused = not self.path.exists() or not any(self.path.iterdir())
        write_atomically(self.path / CONFIG, config_text(run.config).encode())
        try:
            self._log = self._open.enter_context((self.path / LOG).open("a", encoding="utf-8"))
        except OSError as error:
            raise MammothError(f"cannot write {self.path / LOG}: {error}") from error
        self._open.enter_context(copied_to(self._write))

    def begin_task(self, run: Run) -> None:
        """Keeps the folder from now on."""
        self._is_unused = False

    def _write(self, text: str) -> None:
        """Writes lines with their time; a full disk must not end the training."""
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        with contextlib.suppress(OSError):
            self._log.write("".join(f"{now}  {line}\n" for line in text.strip("\n").split("\n")))
            self._log.flush()

    def keep_results(self, run: Run) -> None:
        """Writes the results, also those of an interrupted run.

        Raises:
            MammothError: If they cannot be written; says where the results are.
        """
        self._is_unused = False
        write_or_rescue(run.results, self.path / RESULTS)

    def end_run(self, run: Run) -> None:
        """Writes the report.

        Raises:
            MammothError: If it cannot be written.
        """
        if run.results.class_il:
            from mammoth_compiled.report import write_report  # here: no run needs it before its end

            write_report([self.path], self.path / REPORT)

    def close(self, run: Run) -> None:
        """Closes the log and releases the lock; removes a folder that is of no use."""
        with self._open:
            if self._is_unused:
                shutil.rmtree(self.path, ignore_errors=True)
