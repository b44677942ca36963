"""The flags of training: how long a task is trained, and when the model is evaluated."""

from dataclasses import dataclass
from typing import Literal

from mammoth_compiled.config.argument import argument
from mammoth_compiled.config.values import non_negative_int, positive_float, positive_int


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long each task is trained, and when the model is evaluated."""

    fitting_mode: Literal["epochs", "iters", "time", "early_stopping"] = argument(
        "epochs",
        "A task ends after --n_epochs, --n_iters or --n_minutes, or when --validation images show "
        "no improvement.",
    )
    n_iters: int | None = argument(
        None, "Training steps per task, for --fitting_mode iters.", positive_int, "N"
    )
    n_minutes: float | None = argument(
        None,
        "Minutes of training per task, for --fitting_mode time.",
        positive_float,
        "MINUTES",
    )
    early_stopping_patience: int = argument(
        5, "Epochs without improvement after which early stopping ends a task.", positive_int, "N"
    )
    early_stopping_metric: Literal["loss", "accuracy"] = argument(
        "loss", "What early stopping compares on the validation images of the task."
    )
    drop_last: bool = argument(False, "Drop the last batch of an epoch if it is smaller.")
    start_from: int = argument(
        0, "Skip this number of tasks: no training and no evaluation.", non_negative_int, "N"
    )
    stop_after: int | None = argument(
        None, "End the run after this number of tasks, skipped ones included.", positive_int, "N"
    )
    inference_only: bool = argument(
        False,
        "Do not train: evaluate the checkpoint of --loadcheck on the tasks it has seen, or the "
        "initial model on each task.",
    )
    eval_future: bool = argument(
        False, "Evaluate on tasks not seen yet, too: forward transfer needs it."
    )
    eval_every: int | None = argument(
        None,
        "Evaluate every N training steps of a task, too: worst-case accuracy needs it.",
        positive_int,
        "N",
    )
    eval_epochs: int | None = argument(
        None, "Evaluate every N epochs of a task, too.", positive_int, "N"
    )
