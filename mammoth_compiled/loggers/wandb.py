"""WandbLogger: runs of Weights & Biases, online or offline."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from mammoth_compiled.errors import MammothError
from mammoth_compiled.loggers.base import LoggedRun, Logger, Point

PROJECT = "mammoth_compiled"


class WandbLogger(Logger):
    """Logs to Weights & Biases; a resumed run continues the same run there.

    Its own environment variables apply: `WANDB_PROJECT` (default: mammoth_compiled),
    `WANDB_ENTITY`, `WANDB_MODE`. With `WANDB_MODE=offline` it writes files to the folder `wandb`,
    for `wandb sync`.
    """

    NAME: ClassVar[str] = "wandb"
    PACKAGE: ClassVar[str | None] = "wandb"

    def __init__(self) -> None:
        self._wandb: Any = None
        self._run: Any = None
        self._complete = False

    def begin(self, run: LoggedRun) -> None:
        """Starts the run.

        Raises:
            MammothError: If Weights & Biases refuses, for example without an API key.
        """
        import wandb

        self._wandb = wandb
        # A run keeps its id when it is resumed: that of its folder.
        identity = hashlib.sha256(str(run.directory.resolve()).encode()).hexdigest()[:16]
        run.directory.mkdir(parents=True, exist_ok=True)
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=os.environ.get("WANDB_NAME", run.name),
                notes=run.config.get("notes"),
                config=dict(run.config),
                dir=str(run.directory),
                id=identity,
                resume="allow",
                settings=wandb.Settings(silent=True, console="off"),
            )
        except wandb.Error as error:
            reason = str(error).strip().removesuffix(".")
            raise MammothError(
                f"--log wandb: {reason}. WANDB_MODE=offline logs to files, without an account"
            ) from error
        # The same axis as everywhere; `wandb sync` of a resumed run refuses steps that go back.
        self._run.define_metric("*", step_metric="step")

    def log(self, point: Point) -> None:
        """Logs values; their axis is `step`."""
        place = {"step": point.step, "task": point.task, "epoch": point.epoch}
        self._run.log({**place, **point.values})

    def end(
        self, summary: Mapping[str, float], tables: Mapping[str, Sequence[Sequence[float]]]
    ) -> None:
        """Writes the summary and the accuracy matrices."""
        self._run.summary.update(dict(summary))
        for name, matrix in tables.items():
            width = max((len(row) for row in matrix), default=0)
            table = self._wandb.Table(columns=["after", *(f"task{j + 1}" for j in range(width))])
            for task, row in enumerate(matrix):
                table.add_data(task + 1, *row, *[None] * (width - len(row)))
            self._run.log({f"accuracy/{name}": table})
        self._complete = True

    def close(self) -> None:
        """Ends the run; one that failed is marked as such."""
        if self._run is not None:
            self._run.finish(exit_code=0 if self._complete else 1)
            self._run = None
