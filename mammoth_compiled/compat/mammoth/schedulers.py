"""Mammoth's `utils.schedulers`, for `self.custom_scheduler`."""

import math
from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, MultiStepLR

__all__ = ["CosineSchedule", "CosineSchedulerWithLinearWarmup", "get_scheduler"]


class CosineSchedule(LambdaLR):
    """Multiplies learning rates by cos(0.495 pi e / (K - 1)) in epoch e.

    Args:
        optimizer: The optimizer.
        K: Number of epochs, at least 2.

    Raises:
        ValueError: If there are fewer.
    """

    def __init__(self, optimizer: Optimizer, K: int) -> None:  # noqa: N803, Mammoth's name
        if K < 2:
            raise ValueError(f"CosineSchedule needs at least 2 epochs, got K = {K}")
        super().__init__(optimizer, lambda epoch: math.cos(0.495 * math.pi * epoch / (K - 1)))


class CosineSchedulerWithLinearWarmup(LambdaLR):
    """Raises learning rates linearly, then lowers them along half a cosine to 0.

    Args:
        optimizer: The optimizer.
        base_lrs: Highest learning rate, or one for each parameter group.
        warmup_length: Steps W of the warmup; step t of it has (t + 1) / W of the learning rate.
        steps: Steps in all, more than W.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        base_lrs: float | Sequence[float],
        warmup_length: int,
        steps: int,
    ) -> None:
        groups = optimizer.param_groups
        rates = [base_lrs] * len(groups) if isinstance(base_lrs, (int, float)) else base_lrs
        for group, rate in zip(groups, rates, strict=True):
            group["initial_lr"] = group["lr"] = rate

        def share(step: int) -> float:
            if step < warmup_length:
                return (step + 1) / warmup_length
            return (1 + math.cos(math.pi * (step - warmup_length) / (steps - warmup_length))) / 2

        super().__init__(optimizer, share)


def get_scheduler(model: Any, args: Any, reload_optim: bool = True) -> LRScheduler | None:
    """Returns the schedule that `--lr_scheduler` asks for, None if it asks for none.

    Args:
        model: The model.
        args: All arguments.
        reload_optim: Whether the model gets a new optimizer first.
    """
    if args.lr_scheduler in (None, "none"):
        return None
    if reload_optim or not hasattr(model, "opt"):
        model.opt = model.get_optimizer()
    if args.lr_scheduler == "cosine":
        return CosineAnnealingLR(model.opt, args.n_epochs)
    return MultiStepLR(model.opt, args.lr_milestones, args.lr_gamma)
