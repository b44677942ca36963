"""Learning rate schedules within a task."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.optim import lr_scheduler

from mammoth_compiled.config.schema import RunConfig
from mammoth_compiled.engine.tensor_lr import groups_with_lr
from mammoth_compiled.models.base import ContinualModel


class Schedule:
    """The learning rate schedule of a task.

    Args:
        scheduler: Changes the learning rate; None keeps it.
        every_step: Whether it changes the learning rate after each training step, not each epoch.
        is_own: Whether it belongs to the model, whose state contains it, and which may step it.
    """

    def __init__(
        self,
        scheduler: lr_scheduler.LRScheduler | None = None,
        every_step: bool = False,
        is_own: bool = False,
    ) -> None:
        self._scheduler = scheduler
        self._every_step = every_step
        self.is_own = is_own
        self._begin()

    def _begin(self) -> None:
        scheduler = self._scheduler
        self._last = 0 if scheduler is None else scheduler.last_epoch
        groups = [] if scheduler is None else groups_with_lr(scheduler.optimizer)
        self._rates = [float(group["lr"]) for group in groups]

    def end_step(self) -> None:
        """Sets the learning rate of the next step."""
        if self._every_step:
            self._step()

    def end_epoch(self) -> None:
        """Sets the learning rate of the next epoch."""
        if not self._every_step:
            self._step()

    def _step(self) -> None:
        scheduler = self._scheduler
        if scheduler is None:
            return
        if scheduler.last_epoch == self._last:  # otherwise the model has stepped it
            groups = groups_with_lr(scheduler.optimizer)
            # Schedulers compute with numbers: reading those on a GPU would be a host sync.
            tensors: list[Any] = [group["lr"] for group in groups]
            for group, tensor, rate in zip(groups, tensors, self._rates, strict=False):
                if isinstance(tensor, torch.Tensor):
                    group["lr"] = rate
            scheduler.step()
            self._rates = [float(group["lr"]) for group in groups]
            for k, tensor in enumerate(tensors):
                if isinstance(tensor, torch.Tensor):
                    # Rounded as in a checkpoint, so that a resumed run continues with the same.
                    self._rates[k] = torch.tensor(self._rates[k], dtype=tensor.dtype).item()
                    groups[k]["lr"] = tensor.fill_(self._rates[k])
        self._last = scheduler.last_epoch

    @property
    def steps_done(self) -> int:
        """Steps of the scheduler that the learning rate accounts for."""
        return 0 if self._scheduler is None else self._scheduler.last_epoch

    def resume(self, steps_done: int) -> None:
        """Continues after some steps; the optimizer already has their learning rate."""
        if self._scheduler is None:
            return
        if not self.is_own:
            self._scheduler.last_epoch = steps_done
            self._scheduler._step_count = steps_done + 1
        # Its steps before the checkpoint count; torch would warn that there were none.
        self._scheduler.optimizer._opt_called = True  # type: ignore[attr-defined]
        self._begin()


@contextlib.contextmanager
def schedule(
    model: ContinualModel,
    config: RunConfig,
    num_epochs: int | None = None,
    num_steps: int | None = None,
) -> Iterator[Schedule]:
    """Applies the learning rate schedule of a task; every task starts at the same learning rate.

    The `custom_scheduler` of a model takes the place of `--lr_scheduler`; its learning rate stays
    as it is when the task ends. Compiled graphs do not contain the learning rate, so changing it
    recompiles nothing.

    Args:
        model: The model; its optimizer is the one after `begin_task`.
        config: `config.optimizer.lr_scheduler` is "none", "cosine" (Loshchilov and Hutter 2017,
            arXiv 1608.03983, without restarts within a task) or "multistep"; `scheduler_mode` is
            "epoch" or "iter".
        num_epochs: Epochs of the task; None takes `--n_epochs`.
        num_steps: Steps of the task, for a cosine over steps.

    Yields:
        The schedule.
    """
    every_step = config.optimizer.scheduler_mode == "iter"
    if model.custom_scheduler is not None:
        yield Schedule(model.custom_scheduler, every_step, is_own=True)
        return
    kind = config.optimizer.lr_scheduler
    optimizer = getattr(model, "opt", None)
    if kind == "none" or not isinstance(optimizer, torch.optim.Optimizer):
        yield Schedule()
        return
    initial = [float(group["lr"]) for group in optimizer.param_groups]
    scheduler: lr_scheduler.LRScheduler
    if kind == "cosine":
        epochs = config.experiment.n_epochs if num_epochs is None else num_epochs
        length = num_steps if every_step else epochs
        scheduler = lr_scheduler.CosineAnnealingLR(optimizer, max(length or 1, 1))
    else:
        milestones = config.optimizer.lr_milestones or ()
        scheduler = lr_scheduler.MultiStepLR(optimizer, milestones, config.optimizer.lr_gamma)
    try:
        yield Schedule(scheduler, every_step)
    finally:
        for group, lr in zip(optimizer.param_groups, initial, strict=True):
            group["lr"] = lr
            del group["initial_lr"]
