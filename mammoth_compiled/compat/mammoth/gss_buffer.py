"""Mammoth's `utils.gss_buffer`."""

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from mammoth_compiled.buffers import Buffer as BaseBuffer

__all__ = ["Buffer"]


class Buffer(BaseBuffer):
    """A replay memory that prefers samples whose gradients differ from those of stored ones.

    Source: Aljundi et al. 2019, "Gradient based sample selection for online continual learning",
    arXiv 1903.08671, algorithm 2 (GSS-Greedy).

    Args:
        buffer_size: Capacity in samples, N.
        device: Device of the tensors.
        minibatch_size: Stored samples whose gradients a new one is compared with.
        model: Has `get_grads(inputs, labels)`, which returns a gradient, [1, P].

    Attributes:
        scores: Largest cosine similarity when the sample was stored plus 1, float32, [N].
        cache: Gradients by row, kept until `drop_cache`.
    """

    def __init__(
        self, buffer_size: int, device: str | torch.device, minibatch_size: int, model: Any = None
    ) -> None:
        super().__init__(buffer_size, device)
        self.add_column("scores")
        self.minibatch_size = minibatch_size
        self.model = model
        self.cache: dict[int, torch.Tensor] = {}
        self.reset_fathom()

    def reset_fathom(self) -> None:
        """Starts a new random order in which `get_data` goes through the rows."""
        self._order = torch.randperm(len(self))
        self._position = 0

    def drop_cache(self) -> None:
        """Forgets all gradients, since the weights have changed."""
        self.cache = {}

    def _score(self, inputs: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor) -> float:
        """Returns the largest cosine similarity to the gradients of stored rows, plus 1."""
        gradient = self.model.get_grads(inputs, labels)
        for row in rows.tolist():
            if row not in self.cache:
                data = self.examples[row : row + 1], self.labels[row : row + 1]
                self.cache[row] = self.model.get_grads(*data)
        stored = torch.cat([self.cache[row] for row in rows.tolist()])
        return float(F.cosine_similarity(gradient, stored).max()) + 1

    def add_data(self, examples: torch.Tensor, labels: torch.Tensor) -> None:  # type: ignore[override]
        """Offers a batch, images [B, ...] and class ids [B]."""
        examples, labels = examples.to(self.device), labels.to(self.device)
        rows = torch.randperm(len(self))[: self.minibatch_size]
        score = self._score(examples, labels, rows) if len(rows) else 0.1
        for image, label in zip(examples.split(1), labels.split(1), strict=True):
            if self.num_seen_examples < self.buffer_size:
                super().add_data(image, label, scores=torch.tensor([score]))
                continue
            self.num_seen_examples += 1
            if score >= 1:  # similar to what is stored
                continue
            own = self._score(image, label, rows)
            weights = np.asarray(self.scores.cpu(), dtype=np.float64)
            total = weights.sum()
            slot = np.random.choice(len(weights), p=weights / total if total > 0 else None)
            if np.random.rand() < weights[slot] / (weights[slot] + own):
                row = torch.tensor([slot])
                self.update(row, examples=image, labels=label, scores=torch.tensor([own]))
                self.cache.pop(int(slot), None)

    def get_data(  # type: ignore[override]
        self,
        size: int,
        transform: Any = None,
        give_index: bool = False,
        random: bool = False,
        device: str | torch.device | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Returns examples, [M, ...], and labels, [M].

        Args:
            size: Number of rows, M; fewer at the end of the order of `reset_fathom`.
            transform: torchvision transform of one example.
            give_index: True appends the indices of the rows.
            random: True draws rows, False takes the next ones of the order.
            device: Device of the result.
        """
        if random:
            index = torch.randperm(len(self))[:size]
        else:
            if self._position >= len(self._order):
                self.reset_fathom()
            index = self._order[self._position : self._position + size]
            self._position += len(index)
        examples, labels, _ = self.get_data_by_index(index, transform, device)
        return (examples, labels, index) if give_index else (examples, labels)

    def empty(self) -> None:
        """Removes all samples."""
        self.reset()
        self.drop_cache()
