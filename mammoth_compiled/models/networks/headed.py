"""A backbone with another head, and heads that are not trained."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from mammoth_compiled.backbones.base import MammothBackbone, select_return
from mammoth_compiled.types import ReturnTypes


class HeadedNet(MammothBackbone):
    """A backbone with another head on its features.

    Args:
        body: The backbone.
        head: Computes scores, [B, K], from features, [B, F].
    """

    def __init__(self, body: MammothBackbone, head: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def forward(self, x: torch.Tensor, returnt: ReturnTypes = ReturnTypes.OUT) -> Any:
        """Returns scores, [B, K], features, [B, F], or both."""
        features = self.body(x, returnt=ReturnTypes.FEATURES)
        if returnt == ReturnTypes.FEATURES:
            return features
        return select_return(self.head(features), features, returnt)


class CosinePrototypes(nn.Module):
    """Scores classes by the cosine between features and the mean features of the class.

    Args:
        num_classes: K.
        feature_dim: F.

    Attributes:
        sums: Sum of the features of each class, in the direction of their mean, [K, F].
    """

    sums: torch.Tensor

    def __init__(self, num_classes: int, feature_dim: int) -> None:
        super().__init__()
        self.register_buffer("sums", torch.zeros(num_classes, feature_dim))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Returns the cosines, [B, K], for features [B, F]; 0 for a class without images."""
        return F.normalize(features) @ F.normalize(self.sums).T

    def add(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Adds images: features [B, F], class ids int64 [B]."""
        self.sums.index_add_(0, labels, features)


def freeze(module: nn.Module) -> None:
    """Turns off the gradients of all parameters of a module."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)
