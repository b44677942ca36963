"""Synaptic Intelligence.

Source: Zenke et al. 2017, "Continual Learning Through Synaptic Intelligence", arXiv 1703.04200.

The loss is `CE(z, y) + c sum_i Omega_i (theta_i - theta*_i)^2` (eq. 4), where theta* are the
weights at the end of the previous task. During a task, `omega_i` sums minus the gradient of CE
times the change of theta_i in each step (eq. 3). After it, `Omega_i += omega_i / ((theta_i -
theta*_i)^2 + xi)` (eq. 5).

The change is that of the real step, with momentum or Adam too. Deviation: a negative omega_i, which
noise can cause, counts as 0, because it would reward moving away from theta*.
"""

from argparse import ArgumentParser
from typing import Any, ClassVar

import torch

from mammoth_compiled.config import non_negative_float, positive_float
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.models.base import ContinualModel, Settings
from mammoth_compiled.models.common.settings import EVERY_SETTING, published
from mammoth_compiled.registry import register_model
from mammoth_compiled.types import Batch


@register_model("si")
class SI(ContinualModel):
    """Synaptic Intelligence: weights that lowered the loss of earlier tasks are held in place.

    Attributes:
        importance: Omega, [P], for all parameters in the order of `net.parameters()`.
        anchor: theta*, [P]: the weights at the start of the task.
        path: omega of the current task, [P].
        before: The weights before the current step, [P].
        gradient: The gradient of CE in the current step, [P].
    """

    COMPATIBILITY: ClassVar[list[str]] = EVERY_SETTING
    DEFAULTS: ClassVar[dict[str, Settings]] = published(
        {
            "seq-cifar10": {"lr": 0.03, "c": 0.5, "xi": 1.0},
            "seq-tinyimg": {"lr": 0.03, "c": 0.5, "xi": 1.0},
            "seq-mnist": {"lr": 0.1, "c": 1.0, "xi": 0.9},
            "perm-mnist": {"lr": 0.1, "c": 0.5, "xi": 1.0},
            "rot-mnist": {"lr": 0.1, "c": 1.0, "xi": 1.0},
        },
        buffer_size=None,
    )

    importance: torch.Tensor
    anchor: torch.Tensor
    path: torch.Tensor
    before: torch.Tensor
    gradient: torch.Tensor

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Adds `--c` and `--xi`."""
        parser.add_argument(
            "--c", type=non_negative_float, default=0.5, help="Weight of the penalty."
        )
        parser.add_argument(
            "--xi", type=positive_float, default=1.0, help="Damping of the importance."
        )
        return parser

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        weights = self.net.get_params().detach()
        self.register_buffer("anchor", weights.clone())
        for name in ("importance", "path", "before", "gradient"):
            self.register_buffer(name, torch.zeros_like(weights))

    def training_loss(self, batch: Batch) -> torch.Tensor:
        """Returns the loss of the batch plus the penalty, 0-d."""
        loss = self.loss(self.net(batch.inputs), batch.labels)
        distance = (self.net.get_params() - self.anchor).square()
        return loss + self.args.c * (self.importance * distance).sum()

    def after_backward(self, batch: Batch) -> None:
        """Stores the weights and the gradient of the loss without that of the penalty."""
        self.before.copy_(self.net.get_params())
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.net.parameters()]
        self.gradient.copy_(torch.cat([grad.flatten() for grad in grads]))
        self.gradient -= 2 * self.args.c * self.importance * (self.before - self.anchor)

    def after_step(self, batch: Batch) -> None:
        """Adds the step to the path integral."""
        step = self.net.get_params() - self.before
        # With --amp fp16 a step that overflowed has no finite gradient and changed nothing.
        self.path -= self.gradient.nan_to_num(0.0, 0.0, 0.0) * step

    @torch.no_grad()
    def end_task(self, dataset: ContinualDataset) -> None:
        """Turns the path integral into importance."""
        weights = self.net.get_params()
        change = (weights - self.anchor).square()
        self.importance += self.path.clamp(min=0) / (change + self.args.xi)
        self.anchor.copy_(weights)
        self.path.zero_()
