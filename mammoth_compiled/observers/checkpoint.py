"""CheckpointWriter: saves the run after each task, or after the last one."""

import contextlib
from contextlib import ExitStack
from typing import ClassVar

from mammoth_compiled.config.schema import RunConfig
from mammoth_compiled.console import say
from mammoth_compiled.engine.checkpoint_files import checkpoint_path, keep
from mammoth_compiled.engine.observer import Observer, Run
from mammoth_compiled.engine.resume import save
from mammoth_compiled.errors import MammothError
from mammoth_compiled.files import check_writable, lock
from mammoth_compiled.types import Evaluation


class CheckpointWriter(Observer):
    """Writes checkpoints. If one cannot be written, training continues and the run fails later.

    Args:
        when: "task" for one after each task, "last" for one after the last, or after the task in
            which the run is interrupted.
    """

    ORDER: ClassVar[int] = 10

    @classmethod
    def from_config(cls, config: RunConfig) -> Observer | None:
        """Returns one for `--savecheck`, and for `--resume` and `--checkpoint_every`."""
        files = config.files
        when = files.savecheck or ("task" if files.resume or files.checkpoint_every else None)
        return cls(when) if when else None

    def __init__(self, when: str) -> None:
        self.when = when
        self._error: MammothError | None = None
        self._locked = ExitStack()

    def begin_run(self, run: Run) -> None:
        """Checks that checkpoints can be written, locks their names, keeps those of other runs.

        Raises:
            MammothError: If they cannot, or another run writes checkpoints of the same names.
        """
        path = checkpoint_path(run.config, run.num_tasks)
        check_writable(path)
        self._locked.enter_context(
            lock(checkpoint_path(run.config), "checkpoints", "--checkpoint_path")
        )
        for path in run.other_checkpoints:
            with contextlib.suppress(OSError):  # another run has just done so
                if (kept := keep(path)) != path:
                    say(f"checkpoint: kept {path} as {kept.name}")

    def end_task(self, run: Run, evaluation: Evaluation) -> None:
        """Writes a checkpoint and prints its path, or why it cannot be written."""
        is_last = run.task + 1 == run.num_tasks or run.stop_signal is not None
        if self.when == "last" and not is_last:
            return
        try:
            saved = save(run)
        except MammothError as error:
            self._error = error
            say(f"checkpoint: {error}")
            return
        self._error = None
        if saved.left_out:
            say(
                f"checkpoint: {', '.join(saved.left_out)} of {run.config.experiment.model} is not "
                "saved, because it is neither plain data nor has a state_dict(); a resumed run "
                "starts without it"
            )
        say(f"checkpoint: {saved.path}")

    def end_run(self, run: Run) -> None:
        """Fails if the last checkpoint could not be written.

        Raises:
            MammothError: Says why.
        """
        if self._error is not None:
            raise self._error

    def close(self, run: Run) -> None:
        """Releases the lock."""
        self._locked.close()
