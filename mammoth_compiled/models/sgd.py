"""Sequential fine-tuning on one task after another: the lower bound."""

from typing import ClassVar

import torch

from mammoth_compiled.models.base import ContinualModel, Settings
from mammoth_compiled.registry import register_model
from mammoth_compiled.types import Batch

_DER = "Buzzega et al. 2020, arXiv 2004.07211, appendix F"


@register_model("sgd")
class SGD(ContinualModel):
    """Trains on each task with nothing to counter forgetting; its accuracy is a lower bound."""

    COMPATIBILITY: ClassVar[list[str]] = [
        "class-il",
        "task-il",
        "domain-il",
        "general-continual",
    ]
    DEFAULTS: ClassVar[dict[str, Settings]] = {
        "seq-cifar10": {"lr": 0.1, "n_epochs": 50, "batch_size": 32, "source": _DER},
    }

    def training_loss(self, batch: Batch) -> torch.Tensor:
        """Returns the loss of the batch, 0-d."""
        return self.loss(self.net(batch.inputs), batch.labels)
