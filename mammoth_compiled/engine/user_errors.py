"""Errors of user code: where in the run they happened, and clear ones for known causes."""

from mammoth_compiled.engine.observer import Run
from mammoth_compiled.errors import MammothError, TrainingError


def with_context(run: Run, error: Exception) -> Exception:
    """Returns the error to raise for an exception in a training run.

    Args:
        run: The run, at the step of the exception.
        error: The exception. User code keeps its traceback; a note says where the run was.
    """
    experiment = run.config.experiment
    if isinstance(error, MammothError):
        return error
    loader, batch_size = run.dataset.train_loader, experiment.batch_size
    is_ragged = loader is not None and len(loader.dataset) % batch_size == 1
    if is_ragged and str(error).startswith("Expected more than 1 value per channel when training"):
        return TrainingError(
            f"{experiment.dataset}: a training batch of task {run.task + 1} has one image, and "
            f"batch norm needs more than one value per channel. Choose a --batch_size other than "
            f"{batch_size} (images of a task modulo the batch size must not be 1)"
        ).with_traceback(error.__traceback__)
    error.add_note(
        f"in model {experiment.model!r} on dataset {experiment.dataset!r} with backbone "
        f"{experiment.backbone!r}: task {run.task + 1}, epoch {run.epoch + 1}, step {run.step}"
    )
    return error
