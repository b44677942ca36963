"""CsvLogger: one row per value in `metrics.csv`."""

import csv
from typing import ClassVar

from mammoth_compiled.loggers.base import Point
from mammoth_compiled.loggers.text_file import TextFileLogger

COLUMNS = ("time", "step", "task", "epoch", "name", "value")


class CsvLogger(TextFileLogger):
    """Writes `metrics.csv` with the columns time, step, task, epoch, name, value."""

    NAME: ClassVar[str] = "csv"
    FILE: ClassVar[str] = "metrics.csv"
    HEADER: ClassVar[str] = ",".join(COLUMNS) + "\n"

    @staticmethod
    def step_of(line: str) -> int:
        """Returns the step of a row.

        Raises:
            ValueError: If it is not a complete row.
        """
        (row,) = csv.reader([line])
        if len(row) != len(COLUMNS):
            raise ValueError(line)
        return int(row[1])

    def log(self, point: Point) -> None:
        """Writes one row per value."""
        rest = f"{point.time:.3f},{point.step},{point.task},{point.epoch}"
        # Names of metrics have no commas.
        self.write("".join(f"{rest},{name},{value!r}\n" for name, value in point.values.items()))
