"""A vision transformer with adapters beside its MLPs.

Source: Chen et al. 2022, "AdaptFormer", arXiv 2205.13535.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from mammoth_compiled.backbones.base import MammothBackbone, select_return
from mammoth_compiled.backbones.vit import VisionTransformer
from mammoth_compiled.models.networks.headed import freeze
from mammoth_compiled.types import ReturnTypes

SCALE = 0.1


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
