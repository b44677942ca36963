"""Backbones whose logits are the scores of a method, for export."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.models.networks.headed import HeadedNet
from mammoth_compiled.types import ReturnTypes

# Score of a class that has none, which files can hold, unlike -inf.
LOWEST = torch.finfo(torch.float32).min


class LinearScores(nn.Module):
    """A head that computes scores from features by fixed weights.

    Args:
        weight: [K, F].
        bias: [K].
        has_score: Which classes have a score, bool, [K]; the others get the lowest float32.
        normalizes: Whether features are scaled to length 1 first.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    has_score: torch.Tensor

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor,
        has_score: torch.Tensor,
        normalizes: bool = False,
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight.float())
        self.register_buffer("bias", bias.float())
        # Floats, because bool tensors cannot be replaced in compiled code.
        self.register_buffer("has_score", has_score.float())
        self.normalizes = normalizes

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Returns scores, [B, K], for features [B, F]."""
        if self.normalizes:
            features = F.normalize(features)
        return torch.where(self.has_score > 0, features @ self.weight.T + self.bias, LOWEST)


def linear_classifier(
    net: MammothBackbone, weights: torch.Tensor, biases: torch.Tensor
) -> HeadedNet:
    """Returns a backbone whose logits are those of a linear classifier of its features.

    Args:
        net: The backbone.
        weights: [F, K].
        biases: [K]; -inf for a class without a score.
    """
    has_score = biases > -torch.inf
    return HeadedNet(net, LinearScores(weights.T, biases.masked_fill(~has_score, 0), has_score))


def nearest_means(net: MammothBackbone, means: torch.Tensor, has_mean: torch.Tensor) -> HeadedNet:
    """Returns a backbone whose logits are minus the squared distances to the means of classes.

    For f and mu of length 1, -|f - mu|^2 = 2 f mu - 2 is linear in f.

    Args:
        net: The backbone, whose features are f after normalization.
        means: mu of each class, [K, F].
        has_mean: Which classes have one, bool, [K].
    """
    bias = torch.full((len(means),), -2.0, device=means.device)
    return HeadedNet(net, LinearScores(2 * means, bias, has_mean, normalizes=True))


class CorrectedNet(MammothBackbone):
    """A backbone with a linear correction of each logit.

    Args:
        net: The backbone.
        alpha: Factor of each logit, [K].
        beta: Offset of each logit, [K].
    """

    alpha: torch.Tensor
    beta: torch.Tensor

    def __init__(self, net: MammothBackbone, alpha: torch.Tensor, beta: torch.Tensor) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("alpha", alpha.clone())
        self.register_buffer("beta", beta.clone())

    def forward(self, x: torch.Tensor, returnt: ReturnTypes = ReturnTypes.OUT) -> Any:
        """Returns what the backbone does, with corrected logits, [B, K]."""
        if returnt == ReturnTypes.FEATURES:
            return self.net(x, returnt=returnt)
        if returnt == ReturnTypes.OUT:
            return self.alpha * self.net(x) + self.beta
        logits, others = self.net(x, returnt=returnt)
        return self.alpha * logits + self.beta, others
