"""ResultsWriter: writes the results of a run to a JSON file."""

from pathlib import Path

from mammoth_compiled.console import say
from mammoth_compiled.engine.observer import Observer, Run
from mammoth_compiled.files import check_writable


class ResultsWriter(Observer):
    """Writes accuracies, timings and configuration when the run ends or is interrupted.

    Args:
        path: The file.

    Raises:
        MammothError: If the file cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        check_writable(self.path)

    def end_run(self, run: Run) -> None:
        """Writes the file and prints its path.

        Raises:
            MammothError: If it cannot be written; no half-written file stays behind.
        """
        run.results.write_json(self.path)
        say(f"results: {self.path}")
