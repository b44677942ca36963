"""Mammoth's rules that choose the row that a sample replaces in a full buffer, one by one.

They work on the host and draw from NumPy's generator. Unlike the policies of
`mammoth_compiled.buffers.policies`, they cannot be part of a CUDA graph.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from mammoth_compiled.errors import ConfigError, unknown_name


class Selection:
    """Chooses like reservoir sampling whether a sample is kept; a subclass chooses its row.

    Args:
        buffer: The buffer.
        dataset: The dataset of the run, or None.

    Attributes:
        importance_scores: The latest score of each row, float32, [N]. As in Mammoth, a row with a
            high score is replaced first: give minus the loss to keep samples with a high loss.
    """

    def __init__(self, buffer: Any, dataset: Any = None) -> None:
        self.buffer = buffer
        self.dataset = dataset
        self.importance_scores = torch.zeros(0)

    def resize(self, num_rows: int) -> None:
        """Sets the number of rows, N; the scores of the first ones stay while there are samples."""
        before = self.importance_scores if self.buffer.num_seen_examples else torch.zeros(0)
        self.importance_scores = torch.zeros(num_rows)
        kept = before[:num_rows]
        self.importance_scores[: len(kept)] = kept

    def update(self, indexes: torch.Tensor, values: torch.Tensor) -> None:
        """Sets the scores of rows, [M]."""
        values = torch.as_tensor(values).detach()
        self.importance_scores[torch.as_tensor(indexes).cpu()] = values.float().cpu()

    def write(
        self,
        stores: list[torch.Tensor],
        rows: list[torch.Tensor],
        labels: torch.Tensor | None,
        scores: torch.Tensor | None,
        num_seen: int,
    ) -> None:
        """Chooses rows for the samples of a batch, one by one, and writes those that are kept.

        Args:
            stores: Tensors of the buffer, each [N, ...].
            rows: New rows for each of them, [B, ...].
            labels: Class ids, [B], if there are any.
            scores: Scores, [B], if there are any.
            num_seen: Samples seen before this batch.
        """
        for i in range(len(rows[0])):
            slot = num_seen + i
            if slot >= len(stores[0]):
                slot = self(slot, None if labels is None else labels[i : i + 1])
            if slot < 0:
                continue
            for store, value in zip(stores, rows, strict=True):
                store[slot] = value[i].to(store.dtype)
            if scores is not None:
                self.update(torch.tensor([slot]), scores[i : i + 1])

    def __call__(self, num_seen_examples: int, label: torch.Tensor | None) -> int:
        """Returns the row to replace in a full buffer, -1 to drop the sample.

        Args:
            num_seen_examples: Samples seen before this one.
            label: Class id of the sample, [1].
        """
        if np.random.randint(num_seen_examples + 1) >= len(self.importance_scores):
            return -1
        weights = self.weights()
        total = weights.sum()
        weights = weights / total if total > 0 else np.full(len(weights), 1 / len(weights))
        return int(np.random.choice(len(weights), p=weights))

    def weights(self) -> np.ndarray:
        """Returns the weight with which each row is replaced, not negative, [N]."""
        raise NotImplementedError

    def _labels(self) -> np.ndarray:
        if "labels" not in self.buffer.used_attributes:
            name = self.buffer.sample_selection_strategy
            raise ValueError(f"add_data: the strategy {name!r} needs labels with every sample")
        return np.asarray(self.buffer.labels.cpu())


class LossAware(Selection):
    """Keeps samples with a low score, which is minus their loss in Mammoth's models.

    Source: Buzzega et al. 2020, "Rethinking Experience Replay: a Bag of Tricks for Continual
    Learning", arXiv 2010.05595.
    """

    def weights(self) -> np.ndarray:
        """Returns weights that rise linearly with the score."""
        scores = scaled(self.importance_scores.double().numpy())
        return scores if scores.any() else scores + 1


class LossAwareBalanced(Selection):
    """Keeps samples with a low score and samples of classes with few rows; same source."""

    def weights(self) -> np.ndarray:
        """Returns the mean of the weights of both rules, scaled to the same size."""
        _, inverse, counts = np.unique(self._labels(), return_inverse=True, return_counts=True)
        scores = self.importance_scores.double().numpy()
        balance = counts[inverse].astype(np.float64)
        size = np.abs(scores).mean() * np.abs(balance).mean()
        return scaled(0.5 * scores / size + 0.5 * balance) if size > 0 else balance


class Asymmetric(Selection):
    """Keeps samples of past classes with a high loss and samples of current ones with a low loss.

    The scores are losses.

    Source: Millunzi et al. 2024, "May the Forgetting Be with You: Alternate Replay for Learning
    with Noisy Labels".
    """

    def weights(self) -> np.ndarray:
        """Returns weights whose sums over past and current rows are their numbers."""
        if self.dataset is None:
            raise ValueError("the strategy 'abs' needs Buffer(..., dataset=dataset)")
        is_past = self._labels() < self.dataset.get_offsets()[0]
        loss = self.importance_scores.double().numpy()
        weights = np.zeros(len(loss))
        for rows, sign in ((is_past, -1), (~is_past, 1)):
            if rows.any():
                part = scaled(sign * loss[rows]) + 1e-9
                weights[rows] = part / part.sum() * rows.sum()
        return weights


class BalancedReservoir(Selection):
    """Replaces a random row of the largest class.

    Source: Buzzega et al. 2020, arXiv 2010.05595, balanced reservoir sampling.
    """

    def __call__(self, num_seen_examples: int, label: torch.Tensor | None) -> int:
        """Returns the row; see `Selection`. A sample of a small class is always kept."""
        classes, counts = np.unique(self._labels(), return_counts=True)
        own = counts[classes == int(label)].sum() if label is not None else counts.max()
        is_drawn = np.random.randint(num_seen_examples + 1) < len(self.importance_scores)
        if not is_drawn and own >= np.median(counts):
            return -1
        return int(np.random.choice(np.flatnonzero(self._labels() == classes[counts.argmax()])))


def scaled(values: np.ndarray) -> np.ndarray:
    """Returns values scaled linearly to [0, 1]; equal values as they are scaled to 0.

    Example:
        >>> import numpy as np
        >>> scaled(np.array([1.0, 2.0, 5.0])).tolist()
        [0.0, 0.25, 1.0]
    """
    width = values.max() - values.min()
    return (values - values.min()) / width if width > 0 else np.zeros_like(values)


SELECTIONS: dict[str, Callable[..., Selection]] = {
    "abs": Asymmetric,
    "balancoir": BalancedReservoir,
    "labrs": LossAwareBalanced,
    "lars": LossAware,
}


def find_selection(strategy: str, buffer: Any, dataset: Any = None) -> Selection | None:
    """Returns the rule of a strategy; None for "reservoir" and "unlimited", which need none.

    Args:
        strategy: Its name, in lower case.
        buffer: The buffer that it is for.
        dataset: The dataset of the run, or None.

    Raises:
        ConfigError: If there is no such strategy.
    """
    valid = ["reservoir", "unlimited", *SELECTIONS]
    if strategy not in valid:
        raise ConfigError(unknown_name("sample_selection_strategy", strategy, valid))
    return SELECTIONS[strategy](buffer, dataset) if strategy in SELECTIONS else None
