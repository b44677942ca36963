"""Models that train adapters, or other parts of their network, on the first task only."""

from typing import Any

import torch
from torch import nn

from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.models.common.extended import ExtendedModel
from mammoth_compiled.models.networks.adapted import AdaptedViT
from mammoth_compiled.types import Batch


class FirstTaskModel(ExtendedModel):
    """A model that trains its network on the first task only, with a linear head for it.

    Attributes:
        first_head: The head of that training; scores come from `net`.
        tuned_width: Features that it reads, the last ones of each image; 0 trains nothing.
    """

    tuned_width = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if isinstance(self.net, AdaptedViT):
            self.tuned_width = self.net.vit.feature_dim
        self.first_head = nn.Linear(max(1, self.tuned_width), self.num_classes, device=self.device)
        self.opt = self.get_optimizer()

    @property
    def trains(self) -> bool:
        """Whether the current task is one that the network trains on."""
        return self.tuned_width > 0 and self.dataset.c_task == 0

    def begin_task(self, dataset: ContinualDataset) -> None:
        """Fixes running statistics too, once the network is trained."""
        super().begin_task(dataset)
        self.net.train(self.trains)

    def training_loss(self, batch: Batch) -> torch.Tensor:
        """Returns the loss of the batch in the first task, else 0, 0-d."""
        if not self.trains:
            return 0 * self.unused
        features = self.net(batch.inputs, returnt="features")[:, -self.tuned_width :]
        return self.task_loss(self.first_head(features), batch.labels)
