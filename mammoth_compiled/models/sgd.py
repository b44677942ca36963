"""Sequential fine-tuning on one task after another: the lower bound."""

from typing import ClassVar

import torch

from mammoth_compiled.models.base import ContinualModel, Settings
from mammoth_compiled.models.common.settings import (
    CIFAR10,
    CIFAR100,
    DER,
    DOMAINS,
    EVERY_SETTING,
    MNIST,
    TINY,
    XDER,
)
from mammoth_compiled.registry import register_model
from mammoth_compiled.types import Batch


@register_model("sgd")
class SGD(ContinualModel):
    """Trains on each task with nothing to counter forgetting; its accuracy is a lower bound."""

    COMPATIBILITY: ClassVar[list[str]] = EVERY_SETTING
    DEFAULTS: ClassVar[dict[str, Settings]] = {
        "seq-cifar10": {"lr": 0.1, **CIFAR10, "source": DER},
        "seq-cifar100": {"lr": 0.03, **CIFAR100, "source": XDER},
        "seq-tinyimg": {"lr": 0.03, **TINY, "source": DER},
        "seq-mnist": {"lr": 0.03, **MNIST, "source": DER},
        "perm-mnist": {"lr": 0.2, **DOMAINS, "source": DER},
        "rot-mnist": {"lr": 0.2, **DOMAINS, "source": DER},
        "mnist-360": {"lr": 0.1, "batch_size": 4, "source": DER},
    }

    def training_loss(self, batch: Batch) -> torch.Tensor:
        """Returns the loss of the batch, 0-d."""
        return self.loss(self.net(batch.inputs), batch.labels)
