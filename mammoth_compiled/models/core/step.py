"""One training step of a model: its hooks, and what surrounds their calls."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from mammoth_compiled.distributed import average_, num_ranks
from mammoth_compiled.models.core.hooks import TaskHooks
from mammoth_compiled.models.core.optimizers import flat_parameters
from mammoth_compiled.types import Batch


class TrainingStep(TaskHooks):
    """The part of `ContinualModel` that trains on one batch.

    A model overrides `training_loss` and the hooks around the weight update, or `observe`.

    Attributes:
        scaler: Scales the loss with `--amp fp16`.
    """

    compute: Any = None
    opt: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    _clip_grad: float | None

    def draw(self, batch: Batch) -> None:
        """Draws what is replayed into `batch.replay`, if the model defines it.

        With `--whole_step` it is called before `training_loss`, which is then compiled and must not
        read a buffer. Otherwise `training_loss` calls it if `batch.replay` is None.
        """

    def training_loss(self, batch: Batch) -> torch.Tensor:
        """Returns the loss of one batch, 0-d.

        On a GPU the step is captured as a CUDA graph after a few steps and then replayed without
        Python. State that changes from step to step must therefore be in tensors, updated in place,
        and no value may be read back to the host; otherwise the step stays in Python, with a
        warning.
        """
        raise NotImplementedError(
            f"{type(self).__name__} defines neither observe(inputs, labels, not_aug_inputs, epoch) "
            "nor training_loss(batch)"
        )

    def after_backward(self, batch: Batch) -> None:
        """Called between backward and the weight update, to read or change `p.grad` in place.

        Gradients are those of the loss, also with `--amp fp16`, and not clipped yet. In a step that
        overflows in fp16 they are not finite; the weights are then not updated. Part of the
        captured step like `training_loss`.
        """

    def after_step(self, batch: Batch) -> None:
        """Called after the weight update, to fill a buffer; see `training_loss`."""

    def meta_observe(
        self,
        inputs: torch.Tensor,
        labels: torch.Tensor,
        not_aug_inputs: torch.Tensor,
        *fields: torch.Tensor,
        epoch: int | None = None,
    ) -> torch.Tensor | float:
        """Calls `observe` with the arguments that it takes, and returns the loss.

        Args:
            inputs: See `observe`.
            labels: See `observe`.
            not_aug_inputs: See `observe`.
            *fields: What the training set adds to its items; see `MammothDataset`.
            epoch: Current epoch from 0.
        """
        training_set = getattr(self._stream.train_loader, "dataset", None)
        names = getattr(training_set, "extra_return_fields", ())
        given = {"epoch": epoch, **dict(zip(names, fields, strict=False))}
        accepted = _parameters(type(self).observe)
        if accepted is not None:
            given = {name: value for name, value in given.items() if name in accepted}
        result: Any = self.observe(inputs, labels, not_aug_inputs, **given)
        return result["loss"] if isinstance(result, dict) else result

    def get_gradients(self) -> list[torch.Tensor]:
        """Returns the gradients of all parameters that the optimizer updates and that have one."""
        parameters = flat_parameters(self.opt.param_groups)
        return [p.grad for p in parameters if p.grad is not None]

    def average_over_ranks(self, tensors: Sequence[torch.Tensor]) -> None:
        """Averages tensors in place over the ranks of data-parallel training.

        A step's gradients and loss are averaged by `observe`. Call this for what else a step
        computes from its own rows and changes weights with, such as a gradient on replayed images.
        """
        average_(tensors)

    def observe(
        self,
        inputs: torch.Tensor,
        labels: torch.Tensor,
        not_aug_inputs: torch.Tensor,
        epoch: int | None = None,
        true_labels: torch.Tensor | None = None,
    ) -> torch.Tensor | float:
        """Trains on one batch.

        Args:
            inputs: Augmented, normalized images, [B, C, H, W].
            labels: Class ids, int64, [B].
            not_aug_inputs: Images in [0, 1] without augmentation, [B, C, H, W].
            epoch: Current epoch from 0.
            true_labels: Labels without noise, [B], if `--noise_rate` replaced some.

        Returns:
            The loss, a float or a 0-d tensor; a tensor causes no host sync.
        """
        batch = Batch(inputs, labels, not_aug_inputs, true_labels=true_labels)
        self.opt.zero_grad()
        loss = self._backward(batch)
        if num_ranks() > 1:
            average_([*self.get_gradients(), loss])
        reads_grads = type(self).after_backward is not TrainingStep.after_backward
        if self._clip_grad or reads_grads:
            self.scaler.unscale_(self.opt)
        with torch.no_grad():
            self.after_backward(batch)
        if self._clip_grad:
            nn.utils.clip_grad_norm_(flat_parameters(self.opt.param_groups), self._clip_grad)
        self.scaler.step(self.opt)
        self.scaler.update()
        with torch.no_grad():
            self.after_step(batch)
        return loss

    def _backward(self, batch: Batch) -> torch.Tensor:
        """Computes the loss, detached, and its gradients, in one graph if the run asks for it."""
        whole_step = getattr(self.compute, "whole_step", None)
        loss: torch.Tensor | None = None if whole_step is None else whole_step(self, batch)
        if loss is None:
            loss = self.training_loss(batch)
            self.scaler.scale(loss).backward()
        return loss.detach()


@functools.cache
def _parameters(function: Callable[..., Any]) -> frozenset[str] | None:
    """Returns the names of a function's parameters, None if it takes any keyword."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return frozenset(p.name for p in parameters)
