"""CheckpointWriter: saves the run after each task, or after the last one."""

from mammoth_compiled.console import say
from mammoth_compiled.engine.observer import Observer, Run
from mammoth_compiled.engine.resume import checkpoint_directory, save
from mammoth_compiled.files import check_writable
from mammoth_compiled.types import Evaluation


class CheckpointWriter(Observer):
    """Writes checkpoints.

    Args:
        when: "task" for one after each task, "last" for one after the last.
    """

    def __init__(self, when: str) -> None:
        self.when = when

    def begin_run(self, run: Run) -> None:
        """Checks that checkpoints can be written.

        Raises:
            MammothError: If they cannot.
        """
        check_writable(checkpoint_directory(run.config) / "checkpoint.pt")

    def end_task(self, run: Run, evaluation: Evaluation) -> None:
        """Writes a checkpoint and prints its path.

        Raises:
            MammothError: If it cannot be written.
        """
        if self.when == "last" and run.task + 1 < run.num_tasks:
            return
        saved = save(run)
        if saved.left_out:
            say(
                f"checkpoint: {', '.join(saved.left_out)} of {run.config.experiment.model} is not "
                "saved, because it is neither plain data nor has a state_dict(); a resumed run "
                "starts without it"
            )
        say(f"checkpoint: {saved.path}")
