"""BalancedReplayModel: what models have in common that fill their buffer after each task."""

from argparse import ArgumentParser
from typing import Any, ClassVar

import numpy as np
import torch

from mammoth_compiled.buffers import Buffer
from mammoth_compiled.config import add_rehearsal_args
from mammoth_compiled.data import apply_transform
from mammoth_compiled.datasets.base import EVAL_BATCH_SIZE, ContinualDataset
from mammoth_compiled.models.ahead import compile_ahead
from mammoth_compiled.models.base import ContinualModel


def balanced_rows(groups: torch.Tensor, capacity: int) -> torch.Tensor:
    """Selects rows such that groups share a capacity as evenly as their sizes allow.

    Args:
        groups: Group of each row, int64, [n]. Of one group, the first rows are selected.
        capacity: Number of rows to select, N; all rows if there are fewer.

    Returns:
        Indices of the selected rows in ascending order, int64, [min(n, N)].

    Example:
        >>> import torch
        >>> balanced_rows(torch.tensor([0, 0, 0, 0, 1, 2, 2]), 5)
        tensor([0, 1, 4, 5, 6])
    """
    order = groups.argsort(stable=True)
    ordered = groups[order]
    position = torch.arange(len(groups), device=groups.device)
    rank = torch.empty_like(position)
    rank[order] = position - torch.searchsorted(ordered, ordered)
    return rank.argsort(stable=True)[:capacity].sort().values


class BalancedReplayModel(ContinualModel):
    """A model whose buffer changes between tasks only, and holds equally many images per class.

    After each task the buffer takes random images of its classes, and every class seen before gives
    up as many of its own as are needed. A subclass defines `stored`.
    """

    EXAMPLE_ARGS: ClassVar[dict[str, Any]] = {"buffer_size": 20}

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Adds `--buffer_size` and `--minibatch_size`."""
        add_rehearsal_args(parser)
        return parser

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.buffer = Buffer(self.args.buffer_size, self.device)

    def net_batch_sizes(self) -> set[int]:
        """Returns the sizes of the stream batch and of a replay batch."""
        return {self.args.batch_size, self.args.minibatch_size}

    def stored(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns what the buffer keeps besides images and labels, by name.

        Args:
            images: New images in [0, 1], [R, C, H, W].
        """
        return {}

    def end_task(self, dataset: ContinualDataset) -> None:
        """Divides the buffer among all classes seen so far."""
        is_first = self.buffer.is_empty()
        self.refill(self.buffer, dataset)
        if is_first:
            compile_ahead(self, dataset)

    @torch.no_grad()
    def refill(self, buffer: Buffer, dataset: ContinualDataset) -> None:
        """Fills a buffer with old rows and images of the current task, balanced by class."""
        loader = dataset.train_loader
        old = buffer.serialize(self.device) if len(buffer) else {}
        old_labels = torch.empty(0, dtype=torch.int64, device=self.device)
        old_labels = old["labels"][: len(buffer)] if old else old_labels
        targets = torch.as_tensor(np.asarray(loader.dataset.targets)).to(self.device, torch.int64)
        shuffled = torch.randperm(len(targets), device=self.device)
        rows = balanced_rows(torch.cat((old_labels, targets[shuffled])), buffer.buffer_size)
        kept, new = rows[rows < len(old_labels)], rows[rows >= len(old_labels)] - len(old_labels)
        _, labels, images = loader.gather(shuffled[new])
        added = {"examples": images, "labels": labels, **self.stored(images)}
        num_seen = buffer.num_seen_examples + len(targets)
        buffer.reset()
        buffer.add_data(
            **{
                name: torch.cat((old[name][kept], rows)) if old else rows
                for name, rows in added.items()
            }
        )
        buffer.num_seen_examples = num_seen

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Returns images as the network takes them, without augmentation."""
        return apply_transform(images, getattr(self, "normalization_transform", None))

    @torch.no_grad()
    def predict(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the logits of images in [0, 1], [n, C, H, W], in eval mode, [n, K]."""
        was_training = self.net.training
        self.net.eval()
        logits = [self.net(self.normalize(part)) for part in images.split(EVAL_BATCH_SIZE)]
        self.net.train(was_training)
        return torch.cat(logits)
