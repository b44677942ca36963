"""TaskLoader: the batches of one task, by index on the device or from a DataLoader."""

import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from mammoth_compiled.data.array_source import ArraySource, array_source
from mammoth_compiled.data.items import CheckedItems
from mammoth_compiled.data.lazy import LazyBatch, Window, ready_batch
from mammoth_compiled.data.prefetch import prefetch_rows
from mammoth_compiled.data.transforms import CannotBatchError
from mammoth_compiled.errors import DataError

# Float32 images materialized together on a CPU, few enough to stay in the cache until used.
GROUP_BYTES = 2**21


class TaskLoader:
    """Iterates over a dataset in batches on a device.

    If the items of the dataset are proven to be its array under a transform that has a batched
    version, batches are gathered by index on the device; otherwise they come from a DataLoader.
    Images that need more than 40 % of the free memory of a GPU stay in host memory and are
    prefetched one batch ahead. If a model replaces `data`, `targets` or `transform` of the dataset,
    the next epoch uses the new ones.

    Args:
        dataset: Has `data`, `targets`, `__len__` and `__getitem__`, like `MammothDataset`.
        batch_size: Images per batch, B; the last batch may be smaller.
        shuffle: True draws a new order for each epoch from torch's generator.
        device: Device of the batches.
        num_workers: Worker processes of the DataLoader; None for 0 on a CPU and up to 8 on a GPU.
        name: What the dataset is, for messages.
        num_classes: Number of classes, to check labels; None if unknown.
        drop_last: True drops the last batch of an epoch if it is smaller.

    Attributes:
        dataset: The dataset, as given.
        fallback_reason: Why batches come from a DataLoader; None if they do not.

    Example:
        >>> import numpy as np
        >>> import torch
        >>> from torchvision import transforms
        >>> from mammoth_compiled.datasets.arrays import ArrayDataset
        >>> images, targets = np.zeros((5, 8, 8, 3), np.uint8), np.arange(5)
        >>> dataset = ArrayDataset(images, targets, transforms.ToTensor())
        >>> loader = TaskLoader(dataset, batch_size=2, shuffle=False, device=torch.device("cpu"))
        >>> [labels.tolist() for inputs, labels, not_aug_inputs in loader]
        [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        shuffle: bool,
        device: torch.device,
        num_workers: int | None = None,
        name: str = "the dataset",
        num_classes: int | None = None,
        drop_last: bool = False,
    ) -> None:
        self.dataset = dataset
        self.name = name
        self.num_classes = num_classes
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.device = device
        self.fallback_reason: str | None = None
        if num_workers is None:
            cpus = len(os.sched_getaffinity(0))
            num_workers = min(8, cpus) if device.type == "cuda" else 0
        self.num_workers = num_workers
        self._source: ArraySource | None = None
        self._refresh_source()

    def __len__(self) -> int:
        """Returns the number of batches of an epoch."""
        num_full = len(self.dataset) // self.batch_size
        return num_full if self.drop_last else -(-len(self.dataset) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        """Yields (inputs, labels, not_aug_inputs) on the device; see `types.Batch`."""
        for lazy in self.lazy_batches():
            yield lazy.materialize(*lazy.tensors)

    def lazy_batches(self) -> Iterator[LazyBatch]:
        """Yields each batch of an epoch as tensors and the function that materializes them.

        Full batches of an epoch share the function and the shapes, so that a training step can
        capture data loading in its CUDA graph.
        """
        source = self._current_source()
        return self._from_loader() if source is None else self._from_source(source)

    def gather(self, index: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns the items with these indices as a batch on the device.

        Args:
            index: Indices of items, int64, [B], on any device.

        Returns:
            inputs, [B, C, H, W], labels, int64, [B], and, unless items are pairs, not_aug_inputs,
            [B, C, H, W], and the fields that the dataset adds to its items.

        Raises:
            DataError: If an item cannot be used; names it.
        """
        source = self._current_source()
        if source is not None:
            return source.gather(index.to(source.images.device))
        items = self._items()
        return self._to_device(items.collate([items[i] for i in index.tolist()]))

    @property
    def is_fused(self) -> bool:
        """Whether one kernel gathers, crops, flips and normalizes each batch."""
        source = self._current_source()
        return source is not None and source.fused is not None

    def state_tensors(self) -> list[torch.Tensor]:
        """Returns the tensors that materializing a batch updates in place.

        On a GPU this is the random state of the augmentation kernel, which a captured training
        step advances; elsewhere, and for a DataLoader, the list is empty.
        """
        fused = None if self._source is None else self._source.fused
        return [] if fused is None else [fused.random_state]

    def _current_source(self) -> ArraySource | None:
        if self._source is not None and not self._source.is_current(self.dataset):
            self._refresh_source()
        return self._source

    def _refresh_source(self) -> None:
        try:
            self._source = array_source(self.dataset, self.device)
            self.fallback_reason = None
        except CannotBatchError as error:
            self._source = None
            self.fallback_reason = str(error)

    def _from_source(self, source: ArraySource) -> Iterator[LazyBatch]:
        if source.fused is not None:
            source.fused.begin_epoch()
        draw = torch.randperm if self.shuffle else torch.arange
        order = draw(len(source.labels), device=source.images.device)
        batches = order.split(self.batch_size)
        if self.drop_last:
            batches = batches[: len(source.labels) // self.batch_size]
        if source.fused is not None:
            for number, index in enumerate(batches):
                window = Window(order, number * self.batch_size, source.gather_from)
                yield LazyBatch(source.gather, (index,), window)
        elif self.device.type == "cpu":
            yield from self._in_groups(source, batches)
        elif source.stays_on_host:
            for rows in prefetch_rows(source.row_tensors, batches, self.device):
                yield LazyBatch(source.transform_rows, rows)
        else:
            for index in batches:
                yield LazyBatch(source.gather, (index,))

    def _in_groups(
        self, source: ArraySource, batches: tuple[torch.Tensor, ...]
    ) -> Iterator[LazyBatch]:
        """Materializes several batches together to share the overhead of some twenty operations."""
        image_bytes = torch.float32.itemsize * source.images[:1].numel()
        count = max(1, GROUP_BYTES // (self.batch_size * image_bytes))
        for first in range(0, len(batches), count):
            group = source.gather(torch.cat(batches[first : first + count]))
            for batch in zip(*(t.split(self.batch_size) for t in group), strict=True):
                yield ready_batch(batch)

    def _from_loader(self) -> Iterator[LazyBatch]:
        items = self._items()
        loader = DataLoader(
            items,
            collate_fn=items.collate,
            batch_size=self.batch_size,
            shuffle=self.shuffle,
            drop_last=self.drop_last,
            num_workers=self.num_workers,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_seed_worker,
        )
        for batch in loader:
            yield ready_batch(self._to_device(batch))

    def _items(self) -> CheckedItems:
        return CheckedItems(self.dataset, self.name, self.num_classes)

    def _to_device(self, batch: Any) -> tuple[torch.Tensor, ...]:
        if isinstance(batch, DataError):
            raise batch
        inputs, labels, *not_aug = batch
        labels = labels.to(self.device, dtype=torch.int64, non_blocking=True)
        return self._image(inputs), labels, *map(self._image, not_aug)

    def _image(self, images: torch.Tensor) -> torch.Tensor:
        # NumPy computes in float64, backbones in float32.
        dtype = torch.float32 if images.dtype == torch.float64 else images.dtype
        return images.to(self.device, dtype=dtype, non_blocking=True)


def _seed_worker(worker: int) -> None:
    """Seeds NumPy and Python in a worker process from its torch seed."""
    seed = torch.initial_seed()
    random.seed(seed)
    np.random.seed(seed % 2**32)
