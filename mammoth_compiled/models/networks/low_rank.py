"""A vision transformer with low-rank updates of keys and values."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from mammoth_compiled.backbones.base import MammothBackbone, select_return
from mammoth_compiled.backbones.vit import VisionTransformer
from mammoth_compiled.models.networks.headed import freeze
from mammoth_compiled.types import ReturnTypes


class LowRankQKV(nn.Module):
    """Queries, keys and values, with an update `B A` of the weights of keys and of values.

    Args:
        linear: The layer; its weights get no gradient.
        rank: r.

    Attributes:
        a: A, fixed within a task, [r, D].
        b: B of keys and of values, [2, D, r].
    """

    a: torch.Tensor

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.linear = linear
        width = linear.in_features
        self.register_buffer("a", torch.zeros(rank, width))
        self.b = nn.Parameter(torch.zeros(2, width, rank))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns [B, L, 3 * D] for tokens [B, L, D]."""
        query, key, value = self.linear(x).chunk(3, dim=-1)
        low = x @ self.a.T
        return torch.cat((query, key + low @ self.b[0].T, value + low @ self.b[1].T), dim=-1)

    def merge(self) -> None:
        """Adds the update to the weights."""
        width = self.linear.in_features
        self.linear.weight[width:] += (self.b @ self.a).flatten(0, 1)
        self.b.zero_()


class LowRankViT(MammothBackbone):
    """A vision transformer whose keys and values get low-rank updates, and a new head.

    Args:
        vit: The transformer; it is changed.
        num_classes: K.
        rank: Rank of each update.
    """

    def __init__(self, vit: VisionTransformer, num_classes: int, rank: int) -> None:
        super().__init__()
        freeze(vit)
        self.vit = vit
        self.head = nn.Linear(vit.feature_dim, num_classes)
        for block in self._blocks:
            block.attn.qkv = LowRankQKV(block.attn.qkv, rank)

    @property
    def _blocks(self) -> list[Any]:
        return list(self.vit.blocks)

    @property
    def updates(self) -> list[LowRankQKV]:
        """The layers with updates, one for each block."""
        return [block.attn.qkv for block in self._blocks]

    def forward(self, x: torch.Tensor, returnt: ReturnTypes = ReturnTypes.OUT) -> Any:
        """Returns logits, [B, K], features, [B, D], or both."""
        features = self.vit(x, returnt=ReturnTypes.FEATURES)
        return select_return(self.head(features), features, returnt)

    def grams(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yields the sum of x x^T over the tokens in front of each attention, [D, D]."""
        tokens = self.vit.embed(x)
        for block in self._blocks:
            inputs = block.norm1(tokens).flatten(0, 1)
            yield inputs.T @ inputs
            tokens = block(tokens)


def grown_space(space: torch.Tensor, gram: torch.Tensor, threshold: float) -> torch.Tensor:
    """Returns a projection that holds a share of a gram, by adding its strongest directions.

    Args:
        space: The projection P so far, [D, D].
        gram: G, [D, D].
        threshold: The share of |G|^2 (Frobenius) that |P G|^2 must reach.
    """
    rest = gram - space @ gram
    directions, values, _ = torch.linalg.svd(rest)
    total = gram.square().sum()
    share_before = 1 - (values.square().sum() - values.square().cumsum(0)) / total
    share_before = torch.cat((1 - values.square().sum().view(1) / total, share_before[:-1]))
    added = directions[:, share_before < threshold]
    return space + added @ added.T
