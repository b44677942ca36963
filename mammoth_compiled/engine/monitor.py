"""Looks at the losses without making a GPU wait at every step."""

import math
from typing import Any

import torch

from mammoth_compiled.errors import TrainingError
from mammoth_compiled.models.base import ContinualModel

# On a GPU reading a loss makes the host wait; this many steps are read at once.
READ_EVERY = 50


class LossMonitor:
    """Looks at the losses of a task, on a GPU several at once, and stops at one not finite.

    Args:
        model: The model in training.
        task: Task number for the message, from 1.

    Attributes:
        last: The loss read last.
        lr: The step size at that time.
    """

    def __init__(self, model: ContinualModel, task: int) -> None:
        self.last = float("nan")
        self._model = model
        self._task = task
        self._every = READ_EVERY if model.device.type == "cuda" else 1
        self._pending: list[tuple[Any, int, int]] = []
        self.lr = self._read_lr()

    def add(self, loss: float | torch.Tensor, epoch: int, step: int) -> None:
        """Takes the loss of a step; both counts are from 1.

        Raises:
            TrainingError: If it, or one before it, is not finite, or it is no number at all.
        """
        if loss is None or (isinstance(loss, torch.Tensor) and loss.numel() != 1):
            what = "None" if loss is None else f"a tensor of shape {list(loss.shape)}"
            raise TrainingError(
                f"{type(self._model).__name__}.observe returned {what}: return the loss, a float "
                "or a 0-d tensor"
            )
        self._pending.append((loss, epoch, step))
        if len(self._pending) >= self._every or not isinstance(loss, torch.Tensor):
            self.read()

    def read(self) -> None:
        """Waits for the losses taken and checks them."""
        pending, self._pending = self._pending, []
        self.lr = self._read_lr()
        tensors = [loss for loss, _, _ in pending if isinstance(loss, torch.Tensor)]
        values = iter(
            torch.stack([t.detach().reshape(()) for t in tensors]).tolist() if tensors else []
        )
        for loss, epoch, step in pending:
            self.last = next(values) if isinstance(loss, torch.Tensor) else float(loss)
            if not math.isfinite(self.last):
                raise TrainingError(
                    f"the loss became {self.last} in task {self._task}, epoch {epoch}, step {step} "
                    f"(lr {self.lr:g}): try a smaller --lr, or check the images for values that "
                    "are not finite"
                )

    def _read_lr(self) -> float:
        # On a GPU it may be a tensor, for which the host would wait.
        groups = getattr(self._model.opt, "param_groups", [{}])
        return float(groups[0].get("lr", math.nan))
