"""Log: turns what happens in a run into metrics, and passes them to the loggers."""

import contextlib
import math
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from mammoth_compiled.compiler import counters
from mammoth_compiled.config.schema import RunConfig
from mammoth_compiled.console import say
from mammoth_compiled.engine.memory import peak_memory
from mammoth_compiled.engine.observer import Observer, Run
from mammoth_compiled.engine.run_folder import CONFIG, config_text, folder_of, run_name
from mammoth_compiled.errors import ConfigError, MammothError
from mammoth_compiled.files import directories, write_atomically
from mammoth_compiled.loggers import LoggedRun, Logger, Point, logger_classes
from mammoth_compiled.metrics import average
from mammoth_compiled.results import plain_arguments
from mammoth_compiled.types import Evaluation

# Seconds between two points of a task; a point costs all loggers together about a millisecond.
INTERVAL = 1.0
# Where it costs more, points are further apart: logging takes at most this share of the time.
MAX_SHARE = 0.005


class Log(Observer):
    """Logs losses during a task and everything that is measured after it.

    It reads no tensor: losses are those that the engine has read anyway.

    Args:
        loggers: Where to write.
        directory: Directory of their files.
        name: Name of the run.
        every: Steps whose mean loss is one point; None for those of a second, or of more where
            logging would otherwise take more than `MAX_SHARE` of the time.
    """

    # Before checkpoints, which should not be newer than the log.
    ORDER: ClassVar[int] = 5

    @classmethod
    def from_config(cls, config: RunConfig) -> Observer | None:
        """Returns one for `--log`, and in a run folder."""
        folder, asked = folder_of(config), config.logging
        names = [name.strip() for name in (asked.log or "").split(",") if name.strip()]
        if asked.nowand:
            names = [name for name in names if name != "wandb"]
        if folder is not None and "csv" not in names:
            names.insert(0, "csv")
        if not names:
            return None
        name = run_name(config)
        if asked.log_dir is not None:
            directory = Path(asked.log_dir) / name
        elif folder is not None:
            directory = folder
        else:
            raise ConfigError(f"--log {asked.log} needs a place: give --log_dir DIR or --out DIR")
        loggers = [logger() for logger in logger_classes(",".join(names))]
        return cls(loggers, directory, name, asked.log_every)

    def __init__(
        self,
        loggers: Iterable[Logger],
        directory: str | Path,
        name: str = "run",
        every: int | None = None,
    ) -> None:
        self._loggers = list(loggers)
        self._directory = Path(directory)
        self._name = name
        self._every = every
        self._open = contextlib.ExitStack()

    def begin_run(self, run: Run) -> None:
        """Opens the loggers.

        Raises:
            MammothError: If one cannot write.
        """
        within = {} if run.resume_within is None else run.resume_within["within"]
        self._step = steps_before(run) + within.get("task_step", 0)
        self._images = self._num_losses = 0
        self._loss_sum, self._interval = 0.0, INTERVAL
        self._compiled = counters.read()
        resumed_at = None if run.resumed_from is None else self._step
        config = plain_arguments(run.config.to_namespace())
        if self._directory != folder_of(run.config):
            self._open_directory(config_text(run.config))
        for logger in self._loggers:
            logger.begin(LoggedRun(self._name, self._directory, config, resumed_at))

    def _open_directory(self, config: str) -> None:
        """Creates the directory of the files, which is removed if the run trains no task."""
        is_new = not self._directory.exists()
        try:
            self._open.enter_context(directories(self._directory.parent))
        except OSError as error:
            raise MammothError(
                f"cannot write the log to {self._directory}: {error}; give another --log_dir"
            ) from error
        if is_new:
            self._open.callback(shutil.rmtree, self._directory, ignore_errors=True)
        write_atomically(self._directory / CONFIG, config.encode())

    def begin_task(self, run: Run) -> None:
        """Starts the clock of the throughput."""
        self._open.pop_all()  # there is something to keep
        self._images, self._since = 0, time.perf_counter()

    def end_step(self, run: Run, loss: torch.Tensor | float, num_images: int) -> None:
        """Counts the images."""
        self._images += num_images

    def read_losses(self, run: Run, losses: list[float]) -> None:
        """Logs the mean loss if it is time."""
        for loss in losses:
            self._step += 1
            self._num_losses += 1
            self._loss_sum += loss
            if self._num_losses == self._every:
                self._log_training(run)
        if self._every is None and time.perf_counter() - self._since >= self._interval:
            self._log_training(run)

    def _log_training(self, run: Run) -> None:
        now = time.perf_counter()
        values = {
            "train/loss": self._loss_sum / self._num_losses,
            "train/lr": run.lr,
            "train/images_per_s": self._images / max(now - self._since, 1e-9),
            "memory/peak_mib": peak_memory(run.model.device) / 2**20,
        }
        self._images, self._since = 0, now
        self._num_losses, self._loss_sum = 0, 0.0
        self._log(run, self._step, values)

    def end_evaluation(self, run: Run, evaluation: Evaluation) -> None:
        """Logs the accuracies within a task, of `--eval_every` and `--eval_epochs`."""
        averages = {
            "test/class_il": average(evaluation.class_il),
            "test/task_il": average(evaluation.task_il),
        }
        self._log(run, steps_before(run) + run.task_step, {**averages, **_accuracies(evaluation)})

    def end_task(self, run: Run, evaluation: Evaluation) -> None:
        """Logs the rest of the losses, and accuracies, times and compiler counters."""
        if self._num_losses:
            self._log_training(run)
        compiled = counters.read() - self._compiled
        self._log(
            run,
            steps_before(run),
            {
                **_grouped(run.results.summary()),
                **_accuracies(evaluation),
                "compile/graphs": compiled.graphs,
                "compile/graph_breaks": compiled.graph_breaks,
                "compile/seconds": compiled.seconds,
                "memory/peak_mib": peak_memory(run.model.device) / 2**20,
            },
        )

    def _log(self, run: Run, step: int, values: Mapping[str, Any]) -> None:
        started = time.perf_counter()
        point = Point(step, run.task + 1, run.epoch + 1, time.time(), _finite(values))
        self._call(lambda logger: logger.log(point))
        self._interval = max(INTERVAL, (time.perf_counter() - started) / MAX_SHARE)

    def _call(self, write: Callable[[Logger], None]) -> None:
        """Calls every logger; one that fails is dropped, because it must not end the training."""
        for logger in tuple(self._loggers):
            try:
                write(logger)
            except Exception as error:
                say(f"log: {logger.NAME} stopped: {error}")
                self._loggers.remove(logger)
                with contextlib.suppress(Exception):
                    logger.close()

    def end_run(self, run: Run) -> None:
        """Writes the summary."""
        self._open.pop_all()
        results = run.results
        tables = {"class_il": results.class_il, "task_il": results.task_il}
        summary = _finite(results.summary())
        self._call(lambda logger: logger.end(summary, tables))

    def close(self, run: Run) -> None:
        """Closes the loggers, also after an error."""
        self._call(lambda logger: logger.close())
        self._open.close()


def steps_before(run: Run) -> int:
    """Returns the number of training steps in the tasks that are finished."""
    return int(run.results.notes.get("steps", 0))


def _grouped(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the summary with names that loggers group: times and speeds end with `_s`."""
    return {f"{'time' if n.endswith('_s') else 'test'}/{n}": v for n, v in summary.items()}


def _accuracies(evaluation: Evaluation) -> dict[str, float]:
    """Returns the loss and the accuracies on each task."""
    rows = {"class_il": evaluation.class_il, "task_il": evaluation.task_il}
    return {"test/loss": evaluation.loss} | {
        f"{name}/task{task + 1}": accuracy
        for name, row in rows.items()
        for task, accuracy in enumerate(row)
    }


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    """Returns the values that are finite numbers."""
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, (int, float)) and math.isfinite(value)
    }
