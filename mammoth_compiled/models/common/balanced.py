"""BalancedReplayModel: what models have in common that fill their buffer after each task."""

from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch

from mammoth_compiled.buffers import Buffer
from mammoth_compiled.config import add_rehearsal_args
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.models.base import ContinualModel
from mammoth_compiled.models.common.ahead import compile_ahead


def rank_in_group(groups: torch.Tensor) -> torch.Tensor:
    """Returns how many earlier rows belong to the group of each row, int64, [n].

    Args:
        groups: Group of each row, int64, [n].

    Example:
        >>> import torch
        >>> rank_in_group(torch.tensor([3, 5, 3, 3]))
        tensor([0, 0, 1, 2])
    """
    order = groups.argsort(stable=True)
    ordered = groups[order]
    rank = torch.empty_like(order)
    positions = torch.arange(len(groups), device=groups.device)
    rank[order] = positions - torch.searchsorted(ordered, ordered)
    return rank


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
    return rank_in_group(groups).argsort(stable=True)[:capacity].sort().values


def task_labels(dataset: ContinualDataset) -> torch.Tensor:
    """Returns the class ids of all training images of the current task, int64, [n]."""
    targets = np.asarray(dataset.train_loader.dataset.targets)
    return torch.as_tensor(targets).to(dataset.device, torch.int64)


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
        self.buffer = self.make_buffer(self.args.buffer_size)

    def make_buffer(self, size: int) -> Buffer:
        """Returns an empty buffer for `refill`."""
        buffer = Buffer(size, self.device)
        buffer.changes_between_tasks = True
        return buffer

    def net_batch_sizes(self) -> set[int]:
        """Returns the sizes of the stream batch and of a replay batch."""
        return {self.args.batch_size, self.args.minibatch_size}

    def stored(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns what the buffer keeps besides images and labels, by name.

        Args:
            images: New images in [0, 1], [R, C, H, W].
            labels: Their class ids, int64, [R].
        """
        return {}

    def end_task(self, dataset: ContinualDataset) -> None:
        """Divides the buffer among all classes seen so far."""
        is_first = self.buffer.is_empty()
        loader = dataset.train_loader
        self.refill(self.buffer, task_labels(dataset), lambda index: loader.gather(index)[2])
        if is_first:
            compile_ahead(self, dataset)

    @torch.no_grad()
    def refill(
        self,
        buffer: Buffer,
        labels: torch.Tensor,
        fetch: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        """Fills a buffer with its old rows and new images, balanced by class.

        Args:
            buffer: The buffer.
            labels: Class ids of the new images, int64, [n].
            fetch: Returns those of the new images, in [0, 1], that have the given indices.
        """
        old = buffer.serialize(self.device) if len(buffer) else {"labels": labels[:0]}
        held = len(buffer)
        shuffled = torch.randperm(len(labels), device=self.device)
        classes = torch.cat((old["labels"][:held], labels[shuffled]))
        selected = balanced_rows(classes, buffer.buffer_size)
        index = shuffled[selected[selected >= held] - held]
        images = fetch(index)
        new = {"examples": images, "labels": labels[index], **self.stored(images, labels[index])}
        if held:
            kept = selected[selected < held]
            new = {name: torch.cat((old[name][kept], rows)) for name, rows in new.items()}
        num_seen = buffer.num_seen_examples + len(labels)
        buffer.reset()
        buffer.add_data(**new)
        buffer.num_seen_examples = num_seen
