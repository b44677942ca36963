"""TensorBoardLogger: event files for TensorBoard."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from mammoth_compiled.loggers.base import LoggedRun, Logger, Point


class TensorBoardLogger(Logger):
    """Writes event files to the folder `tensorboard`; show them with `tensorboard --logdir runs`.

    Metrics are scalars; the configuration and the accuracy matrices are texts.
    """

    NAME: ClassVar[str] = "tensorboard"
    PACKAGE: ClassVar[str | None] = "tensorboard"

    def __init__(self) -> None:
        self._writer: Any = None
        self._step = 0

    def begin(self, run: LoggedRun) -> None:
        """Opens an event file and writes the configuration."""
        from torch.utils.tensorboard import SummaryWriter

        # What TensorBoard has of later steps is hidden.
        purge = None if run.resumed_at is None else run.resumed_at + 1
        self._writer = SummaryWriter(str(run.directory / "tensorboard"), purge_step=purge)
        rows = [[name, str(value)] for name, value in run.config.items()]
        self._writer.add_text("config", _markdown(["argument", "value"], rows), 0)

    def log(self, point: Point) -> None:
        """Adds scalars."""
        self._step = point.step
        for name, value in point.values.items():
            self._writer.add_scalar(name, value, point.step, walltime=point.time)

    def end(
        self, summary: Mapping[str, float], tables: Mapping[str, Sequence[Sequence[float]]]
    ) -> None:
        """Writes the accuracy matrices."""
        for name, matrix in tables.items():
            width = max((len(row) for row in matrix), default=0)
            header = ["after", *(f"task {task + 1}" for task in range(width))]
            rows = [
                [f"task {task + 1}", *(f"{100 * accuracy:.2f} %" for accuracy in row)]
                for task, row in enumerate(matrix)
            ]
            self._writer.add_text(f"accuracy/{name}", _markdown(header, rows), self._step)

    def close(self) -> None:
        """Closes the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table in the syntax that TensorBoard shows."""
    padded = [[*row, *[""] * (len(header) - len(row))] for row in rows]
    lines = [header, ["---"] * len(header), *padded]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
