"""Reads losses without a host sync in every step, and stops at one that is not finite."""

import math
from typing import Any

import torch

from mammoth_compiled.engine.observer import Observers, Run
from mammoth_compiled.errors import TrainingError

# Reading a loss from a GPU is a host sync, so this many are read at once.
READ_EVERY = 50


class LossReader:
    """Collects the losses of a task and reads them, on a GPU several at once.

    After each read it updates `run.last_loss` and `run.lr` and passes the losses to the observers.

    Args:
        run: The run, in its current task.
        observers: Who gets the losses.
        read_every: Steps between reads; None picks 1 on a CPU, READ_EVERY on a GPU.
    """

    def __init__(self, run: Run, observers: Observers, read_every: int | None = None) -> None:
        self._run = run
        self._observers = observers
        default = READ_EVERY if run.model.device.type == "cuda" else 1
        self._every = read_every or default
        # Losses not read yet, each with its epoch and step, from 1.
        self._pending: list[tuple[Any, int, int]] = []
        run.last_loss = math.nan
        run.lr = self._lr()

    def add(self, loss: float | torch.Tensor) -> None:
        """Adds the loss of the run's current step.

        Raises:
            TrainingError: If a loss that is read now is not finite, or this one is not a number.
        """
        if loss is None or (isinstance(loss, torch.Tensor) and loss.numel() != 1):
            what = "None" if loss is None else f"a tensor of shape {list(loss.shape)}"
            raise TrainingError(
                f"{type(self._run.model).__name__}.observe returned {what}: return the loss, a "
                "float or a 0-d tensor"
            )
        self._pending.append((loss, self._run.epoch + 1, self._run.step))
        if len(self._pending) >= self._every or not isinstance(loss, torch.Tensor):
            self.read()

    def read(self) -> None:
        """Reads the losses added since the last read.

        Raises:
            TrainingError: If one is not finite; says where.
        """
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        run = self._run
        run.lr = self._lr()
        tensors = [loss for loss, _, _ in pending if isinstance(loss, torch.Tensor)]
        read = iter(
            torch.stack([t.detach().reshape(()) for t in tensors]).tolist() if tensors else []
        )
        losses = []
        for loss, epoch, step in pending:
            run.last_loss = next(read) if isinstance(loss, torch.Tensor) else float(loss)
            if not math.isfinite(run.last_loss):
                raise TrainingError(
                    f"the loss became {run.last_loss} in task {run.task + 1}, epoch {epoch}, step "
                    f"{step} (lr {run.lr:g}): try a smaller --lr, or check the images for values "
                    "that are not finite"
                )
            losses.append(run.last_loss)
        self._observers.notify("read_losses", run, losses)

    def _lr(self) -> float:
        # On a GPU it may be a tensor, whose reading is a host sync. An optimizer may be anything.
        groups = getattr(self._run.model.opt, "param_groups", ())
        return float(groups[0].get("lr", math.nan)) if groups else math.nan
