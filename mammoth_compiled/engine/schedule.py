"""The step size over the epochs of a task."""

import contextlib
from argparse import Namespace
from collections.abc import Callable, Iterator

import torch
from torch.optim import lr_scheduler

from mammoth_compiled.models.base import ContinualModel


@contextlib.contextmanager
def schedule(model: ContinualModel, args: Namespace) -> Iterator[Callable[[], None]]:
    """Varies the step size within a task as the arguments ask; every task begins with the same.

    Compiled graphs hold no step size, so nothing is compiled again.

    Args:
        model: The model, whose optimiser is the one after `begin_task`.
        args: `lr_scheduler`: "none", "cosine" (Loshchilov and Hutter 2017, arXiv 1608.03983,
            without restarts in a task) or "multistep"; `lr_milestones`, epochs after which the
            step size is multiplied by `lr_gamma`.

    Yields:
        What to call after each epoch.
    """
    kind = getattr(args, "lr_scheduler", "none")
    optimiser = getattr(model, "opt", None)
    if kind == "none" or not isinstance(optimiser, torch.optim.Optimizer):
        yield lambda: None
        return
    before = [float(group["lr"]) for group in optimiser.param_groups]
    plan: lr_scheduler.LRScheduler
    if kind == "cosine":
        plan = lr_scheduler.CosineAnnealingLR(optimiser, args.n_epochs)
    else:
        plan = lr_scheduler.MultiStepLR(optimiser, args.lr_milestones, args.lr_gamma)
    try:
        yield plan.step
    finally:
        for group, lr in zip(optimiser.param_groups, before, strict=True):
            group["lr"] = lr
            del group["initial_lr"]
