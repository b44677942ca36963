"""ValidatedReplayModel: a part of the buffer holds images that the model never trains on."""

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mammoth_compiled.config import add_rehearsal_args
from mammoth_compiled.config.values import fraction
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.datasets.splits import take_rows
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.models.common.balanced import BalancedReplayModel, rank_in_group, task_labels


class ValidatedReplayModel(BalancedReplayModel):
    """A model that takes validation images out of the training set of each task.

    A subclass calls `store_validation` in its `end_task`.

    Attributes:
        validation: Validation images of all classes seen, a part of `--buffer_size`.
    """

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Adds the buffer's arguments and `--valset_split`."""
        add_rehearsal_args(parser)
        parser.add_argument(
            "--valset_split",
            type=fraction,
            default=0.1,
            help="Fraction of the buffer that holds validation images, at least one per class.",
        )
        return parser

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        size, classes = self.args.buffer_size, self.num_classes
        held_out = max(classes, int(self.args.valset_split * size))
        if held_out >= size:
            raise ConfigError(
                f"{self.NAME} needs a validation image of each of {classes} classes and others to "
                f"replay: --buffer_size must be at least {classes + 1}, got {size}"
            )
        self.buffer = self.make_buffer(size - held_out)
        self.validation = self.make_buffer(held_out)

    def begin_task(self, dataset: ContinualDataset) -> None:
        """Takes the validation images of the new classes out of the training set."""
        self._held_out = hold_out(dataset, self._quota(dataset.get_offsets()[1]))

    def _quota(self, num_seen: int) -> int:
        """Returns the validation images of each of so many classes."""
        return int(self.validation.buffer_size // num_seen)

    def epoch_sizes(self, sizes: Sequence[int]) -> list[int]:
        """Returns the images of each task without those held out, if its classes are balanced."""
        trained = []
        for task, size in enumerate(sizes):
            first, end = (0, self.num_classes) if self.dataset.joint else self.get_offsets(task)
            held_out = min(size // (end - first) // 2, self._quota(end))
            trained.append(size - (end - first) * held_out)
        return trained

    def store_validation(self) -> None:
        """Divides the validation images among all classes seen, with those held out."""
        images, labels = self._held_out
        self.refill(self.validation, labels, lambda index: images[index])


def hold_out(dataset: ContinualDataset, quota: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Takes equally many images of each class out of the training set of the current task.

    Args:
        dataset: The dataset; which images are taken depends on the task alone.
        quota: Images of each class to take; at most half of a class is.

    Returns:
        The images in [0, 1], [n, C, H, W], and their class ids, int64, [n].
    """
    data: Any = dataset.train_loader.dataset
    labels = task_labels(dataset)
    generator = torch.Generator().manual_seed(dataset.c_task)
    order = torch.randperm(len(labels), generator=generator).to(labels.device)
    rank = torch.empty_like(labels)
    rank[order] = rank_in_group(labels[order])
    held_out = rank < (labels.bincount() // 2).clamp(max=quota)[labels]
    images = dataset.train_loader.gather(held_out.nonzero()[:, 0])[2]
    keep = (~held_out).nonzero()[:, 0].cpu().numpy()
    data.data = take_rows(data.data, keep)
    for name in ("targets", "true_targets"):
        if hasattr(data, name):
            setattr(data, name, np.asarray(getattr(data, name))[keep])
    return images, labels[held_out]
