"""ResultsWriter: writes the results of a run to a JSON file."""

from pathlib import Path

from mammoth_compiled.engine.observer import Observer, Run


class ResultsWriter(Observer):
    """Writes accuracies, timings and configuration when the run ends or is interrupted.

    Args:
        path: The file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def end_run(self, run: Run) -> None:
        """Writes the file.

        Raises:
            MammothError: If it cannot be written; no half-written file stays behind.
        """
        run.results.write_json(self.path)
