"""JsonlLogger: one JSON object per point in `metrics.jsonl`."""

import json
from typing import ClassVar

from mammoth_compiled.loggers.base import Point
from mammoth_compiled.loggers.text_file import TextFileLogger


class JsonlLogger(TextFileLogger):
    """Writes `metrics.jsonl`: time, step, task and epoch of a point, and its values by name."""

    NAME: ClassVar[str] = "jsonl"
    FILE: ClassVar[str] = "metrics.jsonl"

    @staticmethod
    def step_of(line: str) -> int:
        """Returns the step of an object.

        Raises:
            ValueError: If it is not a complete object.
        """
        return int(json.loads(line)["step"])

    def log(self, point: Point) -> None:
        """Writes one object."""
        place = {
            "time": round(point.time, 3),
            "step": point.step,
            "task": point.task,
            "epoch": point.epoch,
        }
        self.write(json.dumps({**place, **point.values}) + "\n")
