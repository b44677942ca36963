"""A linear discriminant whose statistics are updated batch by batch.

Shape letters: B batch, F features, K classes.
"""

from collections.abc import Hashable

import torch
from torch import nn


class StreamingDiscriminant(nn.Module):
    """Means of the classes and the covariance within them, of all features seen so far.

    Args:
        num_classes: K.
        feature_dim: F.

    Attributes:
        means: Mean features of each class, float64, [K, F].
        counts: Images of each class, float64, [K].
        scatter: Sum over images of (x - mu)(x - mu)^T, float64, [F, F].
    """

    means: torch.Tensor
    counts: torch.Tensor
    scatter: torch.Tensor

    def __init__(self, num_classes: int, feature_dim: int) -> None:
        super().__init__()
        shapes = {
            "means": (num_classes, feature_dim),
            "counts": (num_classes,),
            "scatter": (feature_dim, feature_dim),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
        self._solved: dict[Hashable, tuple[torch.Tensor, torch.Tensor]] = {}

    @torch.no_grad()
    def update(self, features: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor) -> None:
        """Adds images to the statistics.

        Args:
            features: x, [B, F].
            labels: Class ids, int64, [B].
            weight: 1, or 0 to change nothing, float64, 0-d.
        """
        x = features.double()
        new = torch.zeros_like(self.counts).index_add_(0, labels, weight.expand(len(x)))
        mean = torch.zeros_like(self.means).index_add_(0, labels, x) / new.clamp(min=1)[:, None]
        share = new / (self.counts + new).clamp(min=1)
        shift = mean - self.means
        centered = weight * (x - mean[labels])
        # Chan et al. 1979: within the batch, and between the batch and what came before.
        self.scatter += centered.T @ centered
        self.scatter += shift.T @ ((share * self.counts)[:, None] * shift)
        self.means += share[:, None] * shift
        self.counts += new
        self._solved.clear()

    def classifier(self, shrinkage: float, state: Hashable) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns what `solve` does, solved once for each state of the statistics.

        Args:
            shrinkage: eps.
            state: Differs after a captured step, which updates statistics without running Python.
        """
        if state not in self._solved:
            self._solved = {state: self.solve(shrinkage)}
        return self._solved[state]

    def solve(self, shrinkage: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns weights, [F, K], and biases, [K], of the linear discriminant, float64.

        With the covariance S and L = ((1 - eps) S + eps I)^-1, the score of class k is
        mu_k L x - mu_k L mu_k / 2, and -inf for a class without images.

        Args:
            shrinkage: eps.
        """
        identity = torch.eye(len(self.scatter), dtype=torch.float64, device=self.scatter.device)
        covariance = (1 - shrinkage) * self.scatter / self.counts.sum().clamp(min=1)
        weights = torch.linalg.solve(covariance + shrinkage * identity, self.means.T)
        biases = -0.5 * (self.means * weights.T).sum(1)
        return weights, biases.masked_fill(self.counts == 0, -torch.inf)
