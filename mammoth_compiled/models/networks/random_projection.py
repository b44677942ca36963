"""A regression on random nonlinear features."""

import torch
from torch import nn
from torch.nn import functional as F

RIDGES = [10.0**exponent for exponent in range(-8, 9)]


class RandomProjection(nn.Module):
    """Scores `relu(f P) W` of features f, with a random P that stays.

    Args:
        num_classes: K.
        feature_dim: F.
        projection_dim: M, columns of P.
    """

    projection: torch.Tensor
    weights: torch.Tensor

    def __init__(self, num_classes: int, feature_dim: int, projection_dim: int) -> None:
        super().__init__()
        self.register_buffer("projection", torch.randn(feature_dim, projection_dim))
        self.register_buffer("weights", torch.zeros(projection_dim, num_classes))

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Returns h = relu(f P), [B, M]."""
        return F.relu(features @ self.projection)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Returns scores, [B, K], for features [B, F]."""
        return self.project(features) @ self.weights


def ridge_errors(
    fit: torch.Tensor, targets: torch.Tensor, held_out: torch.Tensor, expected: torch.Tensor
) -> torch.Tensor:
    """Returns the mean squared error on held-out rows for each of RIDGES, float64, [17].

    One eigendecomposition serves them all: of the smaller one of X X^T and X^T X.

    Args:
        fit: X, [n, M].
        targets: Their one-hot classes, [n, K].
        held_out: [m, M].
        expected: Their one-hot classes, [m, K].
    """
    x, y, rows = fit.double(), targets.double(), held_out.double()
    if len(x) <= x.shape[1]:
        values, vectors = torch.linalg.eigh(x @ x.T)
        left, right = rows @ (x.T @ vectors), vectors.T @ y
    else:
        values, vectors = torch.linalg.eigh(x.T @ x)
        left, right = rows @ vectors, vectors.T @ (x.T @ y)
    values = values.clamp(min=0)[:, None]
    predictions = [left @ (right / (values + ridge)) for ridge in RIDGES]
    return torch.stack([F.mse_loss(p, expected.double()) for p in predictions])
