"""Learning rate schedules within a task."""

import contextlib
from collections.abc import Iterator

import torch
from torch.optim import lr_scheduler

from mammoth_compiled.config.schema import RunConfig
from mammoth_compiled.models.base import ContinualModel


class Schedule:
    """The learning rate schedule of a task.

    Args:
        scheduler: Changes the learning rate; None keeps it.
    """

    def __init__(self, scheduler: lr_scheduler.LRScheduler | None = None) -> None:
        self._scheduler = scheduler

    def end_epoch(self) -> None:
        """Sets the learning rate of the next epoch."""
        if self._scheduler is not None:
            self._scheduler.step()

    @property
    def epochs_done(self) -> int:
        """Epochs that the learning rate accounts for."""
        return 0 if self._scheduler is None else self._scheduler.last_epoch

    def resume(self, epochs_done: int) -> None:
        """Continues after some epochs; the optimizer already has their learning rate."""
        if self._scheduler is not None:
            self._scheduler.last_epoch = epochs_done
            self._scheduler._step_count = epochs_done + 1
            # Its steps before the checkpoint count; torch would warn that there were none.
            self._scheduler.optimizer._opt_called = True  # type: ignore[attr-defined]


@contextlib.contextmanager
def schedule(
    model: ContinualModel, config: RunConfig, num_epochs: int | None = None
) -> Iterator[Schedule]:
    """Applies the learning rate schedule of a task; every task starts at the same learning rate.

    Compiled graphs do not contain the learning rate, so changing it recompiles nothing.

    Args:
        model: The model; its optimizer is the one after `begin_task`.
        config: `config.optimizer.lr_scheduler` is "none", "cosine" (Loshchilov and Hutter 2017,
            arXiv 1608.03983, without restarts within a task) or "multistep".
        num_epochs: Epochs of the task; None takes `--n_epochs`.

    Yields:
        The schedule.
    """
    kind = config.optimizer.lr_scheduler
    optimizer = getattr(model, "opt", None)
    if kind == "none" or not isinstance(optimizer, torch.optim.Optimizer):
        yield Schedule()
        return
    initial = [float(group["lr"]) for group in optimizer.param_groups]
    scheduler: lr_scheduler.LRScheduler
    if kind == "cosine":
        epochs = config.experiment.n_epochs if num_epochs is None else num_epochs
        scheduler = lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    else:
        milestones = config.optimizer.lr_milestones or ()
        scheduler = lr_scheduler.MultiStepLR(optimizer, milestones, config.optimizer.lr_gamma)
    try:
        yield Schedule(scheduler)
    finally:
        for group, lr in zip(optimizer.param_groups, initial, strict=True):
            group["lr"] = lr
            del group["initial_lr"]
