"""ExemplarModel: what models whose epochs contain stored images have in common."""

from argparse import ArgumentParser
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch

from mammoth_compiled.config import positive_int
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.models.common.rehearsal import RehearsalModel, gather_batch
from mammoth_compiled.types import Batch


class ExemplarModel(RehearsalModel):
    """A model that trains on stored images as a part of its epochs, not as batches of their own.

    A subclass calls `use_stored_images` in `begin_task` and defines `POLICY`. Epochs contain the
    images of the task too, unless it sets `TRAINS_ON_STREAM` to False.
    """

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Adds `--buffer_size`."""
        parser.add_argument(
            "--buffer_size",
            type=positive_int,
            required=True,
            metavar="N",
            help="Buffer capacity, in samples.",
        )
        return parser

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Attributes of the training set of the task that have other values at the moment.
        self._replaced: dict[str, Any] = {}

    def after_step(self, batch: Batch) -> None:
        """Stores nothing, because batches contain stored images."""

    def epoch_sizes(self, sizes: Sequence[int]) -> list[int]:
        """Returns the images of each task plus those stored before, or those stored by then."""
        stored = [min(self.args.buffer_size, seen) for seen in accumulate(sizes)]
        if not self.TRAINS_ON_STREAM:
            return stored
        return [size + held for size, held in zip(sizes, [0, *stored], strict=False)]

    def use_stored_images(self, dataset: ContinualDataset) -> None:
        """Adds the stored images to the training set of the task, or puts them in its place.

        Raises:
            ConfigError: If the dataset does not hold its images as an array of bytes.
        """
        split: Any = dataset.train_loader.dataset
        data = split.data
        stored = gather_batch(dataset.train_loader, torch.zeros(1, dtype=torch.int64))
        size = tuple(stored.not_aug_inputs.shape[2:])
        is_array = isinstance(data, np.ndarray) and data.dtype == np.uint8
        if not is_array or data.shape[1:3] != size:
            raise ConfigError(
                f"model {self.NAME!r} trains on stored images as a part of the training set, for "
                "which its `data` must be an array of all images, uint8 [N, H, W] or [N, H, W, C]; "
                f"dataset {dataset.NAME!r} has other data. Choose a model that replays batches, "
                "such as er or er-ace"
            )
        if self.buffer.is_empty():
            return
        examples, labels, *_ = self.buffer.get_all_data(device="cpu")
        images = (255 * examples).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        images = images.reshape(-1, *data.shape[1:])
        targets = labels.numpy()
        if self.TRAINS_ON_STREAM:
            images = np.concatenate((data, images))
            targets = np.concatenate((np.asarray(split.targets), targets))
        # Further fields, such as labels without noise, are not stored.
        values = {"data": images, "targets": targets, "extra_return_fields": ()}
        self._replaced = {name: getattr(split, name, ()) for name in values}
        vars(split).update(values)

    @torch.no_grad()
    def end_task(self, dataset: ContinualDataset) -> None:
        """Restores the training set, then lets the policy select among its images."""
        loader = dataset.train_loader
        vars(loader.dataset).update(self._replaced)
        self._replaced = {}
        if self.buffer.selects_after_task:
            self.buffer.num_seen_examples += len(loader.dataset)
            self.select_after_task(dataset)
