"""Online Elastic Weight Consolidation.

Source: Kirkpatrick et al. 2017, arXiv 1612.00796; online: Schwarz et al. 2018, "Progress &
Compress", arXiv 1805.06370.

The loss is `CE(z, y) + e_lambda sum_i F_i (theta_i - theta*_i)^2`, where theta* are the weights at
the end of the previous task. After task t, `F <- gamma F + F_t`, where F_t is the mean over the
images x of the task of `p(y | x) (d log p(y | x) / d theta)^2`: the term of the label y in the
expectation that defines the diagonal of the Fisher information.

As in Mammoth, the penalty has no factor 1/2 and the other labels' terms are left out, so that its
settings apply. Deviation: batch norm uses its running statistics in the Fisher pass.
"""

from argparse import ArgumentParser
from typing import Any, ClassVar

import torch

from mammoth_compiled.config import non_negative_float
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.models.base import ContinualModel, Settings
from mammoth_compiled.models.common.per_image import per_image_gradients
from mammoth_compiled.models.common.settings import EVERY_SETTING, published
from mammoth_compiled.registry import register_model
from mammoth_compiled.types import Batch

# Gradients of single images that are held at once, in float32 values: 256 MiB.
MAX_GRADIENTS = 2**26


@register_model("ewc-on")
class EWCOn(ContinualModel):
    """Online EWC: weights that mattered for earlier tasks are held near their old values.

    Attributes:
        fisher: F, [P], for all parameters in the order of `net.parameters()`; None in the first
            task.
        anchor: theta*, [P]; likewise.
    """

    COMPATIBILITY: ClassVar[list[str]] = EVERY_SETTING
    DEFAULTS: ClassVar[dict[str, Settings]] = published(
        {
            "seq-cifar10": {"lr": 0.03, "e_lambda": 10.0, "gamma": 1.0},
            "seq-tinyimg": {"lr": 0.03, "e_lambda": 25.0, "gamma": 1.0},
            "seq-mnist": {"lr": 0.03, "e_lambda": 90.0, "gamma": 1.0},
            "perm-mnist": {"lr": 0.1, "e_lambda": 0.7, "gamma": 1.0},
            "rot-mnist": {"lr": 0.1, "e_lambda": 0.7, "gamma": 1.0},
        },
        buffer_size=None,
    )

    fisher: torch.Tensor | None
    anchor: torch.Tensor | None

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Adds `--e_lambda` and `--gamma`."""
        parser.add_argument(
            "--e_lambda", type=non_negative_float, default=10.0, help="Weight of the penalty."
        )
        parser.add_argument(
            "--gamma",
            type=non_negative_float,
            default=1.0,
            help="Decay of the Fisher information of earlier tasks.",
        )
        return parser

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("fisher", None)
        self.register_buffer("anchor", None)

    def training_loss(self, batch: Batch) -> torch.Tensor:
        """Returns the loss of the batch plus the penalty, 0-d."""
        loss = self.loss(self.net(batch.inputs), batch.labels)
        if self.fisher is not None and self.anchor is not None:
            distance = (self.net.get_params() - self.anchor).square()
            loss = loss + self.args.e_lambda * (self.fisher * distance).sum()
        return loss

    @torch.no_grad()
    def end_task(self, dataset: ContinualDataset) -> None:
        """Adds the Fisher information of the task and stores the weights."""
        fisher = self._fisher_of_task(dataset)
        if self.fisher is not None:
            fisher += self.args.gamma * self.fisher
        self.fisher = fisher
        self.anchor = self.net.get_params().clone()

    def _fisher_of_task(self, dataset: ContinualDataset) -> torch.Tensor:
        was_training = self.net.training
        self.net.eval()
        total = torch.zeros_like(self.net.get_params())
        chunk = max(1, MAX_GRADIENTS // len(total))
        for inputs, labels, *_ in dataset.train_loader:
            for part, classes in zip(inputs.split(chunk), labels.split(chunk), strict=True):
                grads, losses = per_image_gradients(self.net, part, classes)
                total += (-losses).exp() @ grads.square_()
        self.net.train(was_training)
        return total / len(dataset.train_loader.dataset)
