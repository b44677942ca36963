"""Gaussians of the features of each class, to draw features of old classes from."""

from collections.abc import Callable

import torch
from torch import nn


class ClassGaussians(nn.Module):
    """Mean and covariance of the features of each class.

    Args:
        num_classes: K.
        feature_dim: F.

    Attributes:
        means: [K, F].
        factors: Cholesky factors of the covariances, [K, F, F]; 236 MB for 100 classes of a ViT-B.
    """

    means: torch.Tensor
    factors: torch.Tensor

    def __init__(self, num_classes: int, feature_dim: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(num_classes, feature_dim))
        self.register_buffer("factors", torch.zeros(num_classes, feature_dim, feature_dim))

    @property
    def is_fitted(self) -> torch.Tensor:
        """Which classes have a Gaussian, bool, [K]."""
        return self.factors.diagonal(dim1=1, dim2=2)[:, 0] > 0

    @torch.no_grad()
    def fit(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Fits the Gaussians of the classes that occur; adds 1e-4 to each variance.

        Args:
            features: [n, F].
            labels: Class ids, int64, [n].
        """
        for k in labels.unique().tolist():
            x = features[labels == k].double()
            centered = x - x.mean(0)
            covariance = centered.T @ centered / max(1, len(x) - 1)
            covariance.diagonal().add_(1e-4)
            self.means[k] = x.mean(0)
            self.factors[k] = torch.linalg.cholesky(covariance)

    def draw(self, k: int, count: int, scale: torch.Tensor | float = 1.0) -> torch.Tensor:
        """Returns features drawn for class k, [count, F], with its mean multiplied by `scale`."""
        noise = torch.randn(count, self.means.shape[1], device=self.means.device)
        return self.means[k] * scale + noise @ self.factors[k].T


def train_on_samples(
    head: nn.Module,
    classes: torch.Tensor,
    draw: Callable[[int], torch.Tensor],
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    lr: float,
    epochs: int,
) -> None:
    """Trains a head on features that are drawn anew in each epoch, in batches as large as a draw.

    The optimizer is SGD with momentum 0.9, weight decay 5e-4 and a cosine schedule.

    Args:
        head: Maps features, [B, F], to logits, [B, K].
        classes: Class ids, int64, [C].
        draw: Returns features of a class, [n, F], the same number for each.
        loss: Loss function of (logits [B, K], labels [B]).
        lr: Learning rate of the first epoch.
        epochs: Number of epochs.
    """
    optimizer = torch.optim.SGD(head.parameters(), lr, 0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, epochs))
    for _ in range(epochs):
        drawn = [draw(k) for k in classes.tolist()]
        features, size = torch.cat(drawn), len(drawn[0])
        labels = classes.repeat_interleave(size)
        for index in torch.randperm(len(labels), device=labels.device).split(size):
            optimizer.zero_grad()
            loss(head(features[index]), labels[index]).backward()
            optimizer.step()
        schedule.step()
    head.zero_grad()
