"""Adapters beside the MLPs of a vision transformer, trained on the first task or on each.

Source: Chen et al. 2022, "AdaptFormer", arXiv 2205.13535.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from mammoth_compiled.backbones.base import MammothBackbone, select_return
from mammoth_compiled.backbones.vit import VisionTransformer
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.models.extended import ExtendedModel, freeze
from mammoth_compiled.types import Batch, ReturnTypes

SCALE = 0.1

# Arguments for tests and examples: a transformer for images of 8x8 pixels.
EXAMPLE_VIT = {"backbone": "vit-tiny", "width": 24, "depth": 2, "patch_size": 4, "lr": 0.05}


class Adapter(nn.Module):
    """Two linear layers with ReLU between them; returns 0 until it is trained.

    Args:
        width: D, the width of a token.
        hidden: r, units between the layers.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, hidden)
        self.up = nn.Linear(hidden, width)
        nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
        for parameter in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(parameter)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns [B, L, D] for tokens [B, L, D]."""
        return SCALE * self.up(F.relu(self.down(x)))


class AdaptedViT(MammothBackbone):
    """A frozen vision transformer with an adapter in each block.

    Args:
        vit: The transformer.
        hidden: Units of each adapter.
        head: Computes scores, [B, K], from features.
        keeps_original: Whether features are those without adapters, [B, D], followed by those with
            adapters, [B, D].
    """

    def __init__(
        self, vit: VisionTransformer, hidden: int, head: nn.Module, keeps_original: bool
    ) -> None:
        super().__init__()
        freeze(vit)
        self.vit = vit
        self.adapters = nn.ModuleList(Adapter(vit.feature_dim, hidden) for _ in vit.blocks)
        self.head = head
        self.keeps_original = keeps_original

    def forward(self, x: torch.Tensor, returnt: ReturnTypes = ReturnTypes.OUT) -> Any:
        """Returns scores, [B, K], features, [B, F], or both."""
        tokens = self.vit.embed(x)
        features = self.vit.encode(tokens, adapters=self.adapters)[:, 0]
        if self.keeps_original:
            features = torch.cat((self.vit.encode(tokens)[:, 0], features), 1)
        if returnt == ReturnTypes.FEATURES:
            return features
        return select_return(self.head(features), features, returnt)


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
