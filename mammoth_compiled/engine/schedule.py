"""Learning rate schedules within a task."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch.optim import lr_scheduler

from mammoth_compiled.config.schema import RunConfig
from mammoth_compiled.models.base import ContinualModel


@contextlib.contextmanager
def schedule(model: ContinualModel, config: RunConfig) -> Iterator[Callable[[], None]]:
    """Applies the learning rate schedule of a task; every task starts at the same learning rate.

    Compiled graphs do not contain the learning rate, so changing it recompiles nothing.

    Args:
        model: The model; its optimizer is the one after `begin_task`.
        config: `config.optimizer.lr_scheduler` is "none", "cosine" (Loshchilov and Hutter 2017,
            arXiv 1608.03983, without restarts within a task) or "multistep".

    Yields:
        A function to call after each epoch.
    """
    kind = config.optimizer.lr_scheduler
    optimizer = getattr(model, "opt", None)
    if kind == "none" or not isinstance(optimizer, torch.optim.Optimizer):
        yield lambda: None
        return
    initial = [float(group["lr"]) for group in optimizer.param_groups]
    scheduler: lr_scheduler.LRScheduler
    if kind == "cosine":
        scheduler = lr_scheduler.CosineAnnealingLR(optimizer, config.experiment.n_epochs)
    else:
        milestones = config.optimizer.lr_milestones or ()
        scheduler = lr_scheduler.MultiStepLR(optimizer, milestones, config.optimizer.lr_gamma)
    try:
        yield scheduler.step
    finally:
        for group, lr in zip(optimizer.param_groups, initial, strict=True):
            group["lr"] = lr
            del group["initial_lr"]
