"""Sequential fine-tuning on one task after another: the lower bound."""

from typing import ClassVar

import torch

from mammoth_compiled.models.base import ContinualModel, Settings
from mammoth_compiled.models.common.settings import EVERY_SETTING, published
from mammoth_compiled.registry import register_model
from mammoth_compiled.types import Batch


@register_model("sgd")
class SGD(ContinualModel):
    """Trains on each task with nothing to counter forgetting; its accuracy is a lower bound."""

    COMPATIBILITY: ClassVar[list[str]] = EVERY_SETTING
    DEFAULTS: ClassVar[dict[str, Settings]] = published(
        {
            "seq-cifar10": {"lr": 0.1},
            "seq-cifar100": {"lr": 0.03},
            "seq-tinyimg": {"lr": 0.03},
            "seq-mnist": {"lr": 0.03},
            "perm-mnist": {"lr": 0.2},
            "rot-mnist": {"lr": 0.2},
            "mnist-360": {"lr": 0.1, "batch_size": 4},
        },
        buffer_size=None,
    )

    def training_loss(self, batch: Batch) -> torch.Tensor:
        """Returns the loss of the batch, 0-d."""
        return self.loss(self.net(batch.inputs), batch.labels)
