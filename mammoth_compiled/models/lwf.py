"""Learning without Forgetting.

Source: Li and Hoiem 2017, "Learning without Forgetting", arXiv 1606.09282.

The loss is `CE(z[seen], y) + alpha H(softmax(z_old[past] / T), softmax(z[past] / T))`, where z_old
are the logits of the network of the previous task (eq. 1 to 4).

Deviations: the teacher sees the same augmented images as the network, so nothing is stored per
image. New classes are not warmed up alone before all weights are trained.
"""

from argparse import ArgumentParser
from typing import Any, ClassVar

import torch

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.config import non_negative_float, positive_float
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.models.base import ContinualModel, Settings
from mammoth_compiled.models.common.settings import published
from mammoth_compiled.models.common.teacher import distillation_loss, update_teacher
from mammoth_compiled.registry import register_model
from mammoth_compiled.types import Batch


@register_model("lwf")
class LwF(ContinualModel):
    """Learning without Forgetting: distills the network of the previous task on new images.

    Attributes:
        teacher: That network; None during the first task.
    """

    DEFAULTS: ClassVar[dict[str, Settings]] = published(
        {
            "seq-cifar10": {"lr": 0.01, "optim_wd": 5e-4, "alpha": 3.0, "softmax_temp": 2.0},
            "seq-tinyimg": {"lr": 0.01, "optim_wd": 5e-4, "alpha": 1.0, "softmax_temp": 2.0},
            "seq-mnist": {"lr": 0.03, "optim_wd": 5e-4, "alpha": 1.0, "softmax_temp": 2.0},
        },
        buffer_size=None,
    )

    teacher: MammothBackbone | None

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Adds `--alpha` and `--softmax_temp`."""
        parser.add_argument(
            "--alpha",
            type=non_negative_float,
            default=1.0,
            help="Weight of the distillation loss.",
        )
        parser.add_argument(
            "--softmax_temp",
            type=positive_float,
            default=2.0,
            help="Temperature of the distillation loss.",
        )
        return parser

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.teacher = None

    def training_loss(self, batch: Batch) -> torch.Tensor:
        """Returns the loss among the classes seen plus the distillation loss, 0-d."""
        num_past, num_seen = self.dataset.get_offsets()
        logits = self.net(batch.inputs)
        loss = self.loss(logits[:, :num_seen], batch.labels)
        if self.teacher is not None:
            with torch.no_grad():
                old_logits = self.teacher(batch.inputs)
            loss = loss + self.args.alpha * distillation_loss(
                logits[:, :num_past], old_logits[:, :num_past], self.args.softmax_temp
            )
        return loss

    def end_task(self, dataset: ContinualDataset) -> None:
        """Freezes a copy of the network for the next task."""
        update_teacher(self)
