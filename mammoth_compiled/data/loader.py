"""The loader of one task: batches by index on the device, or a DataLoader as the fallback."""

import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, default_collate

from mammoth_compiled.data.lazy import LazyBatch, ready_batch
from mammoth_compiled.data.source import ArraySource, array_source
from mammoth_compiled.data.stream import stream
from mammoth_compiled.data.transforms import CannotBatchError

# Of images in float32, so that what is made together is still in the cache when it is used.
AT_ONCE_BYTES = 2**21


class TaskLoader:
    """Iterates over a dataset in batches on a device.

    A dataset whose items are proven to be its array under a known transform is read by index on
    the device; any other goes through a DataLoader. Images that take more than 40 % of a GPU's free
    memory stay in host memory and are copied one batch ahead. Data that a model replaces is noticed
    at the start of the next epoch.

    Args:
        dataset: Has `data`, `targets`, `__len__` and `__getitem__` in Mammoth's style.
        batch_size: Images per batch; the last may be smaller.
        shuffle: True draws a new order each epoch from torch's generator.
        device: Where batches are wanted.
        num_workers: Processes of the DataLoader; None picks 0 on a CPU and up to 8 with a GPU.

    Attributes:
        dataset: The dataset, as given.
        fallback_reason: Why a DataLoader is used; None while the fast way is taken.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        shuffle: bool,
        device: torch.device,
        num_workers: int | None = None,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.device = device
        self.fallback_reason: str | None = None
        if num_workers is None:
            cpus = len(os.sched_getaffinity(0))
            num_workers = min(8, cpus) if device.type == "cuda" else 0
        self.num_workers = num_workers
        self._source: ArraySource | None = None
        self._find_source()

    def __len__(self) -> int:
        """Returns the number of batches of an epoch."""
        return -(-len(self.dataset) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        """Yields (inputs, labels, not_aug_inputs) on the device; see `Batch`."""
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
            index: Indices of items, int64, [B].
        """
        source = self._current_source()
        if source is not None:
            return source.batch(index.to(source.images.device))
        return self._to_device(default_collate([self.dataset[i] for i in index.tolist()]))

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
            self._find_source()
        return self._source

    def _find_source(self) -> None:
        try:
            self._source = array_source(self.dataset, self.device)
            self.fallback_reason = None
        except CannotBatchError as error:
            self._source = None
            self.fallback_reason = str(error)

    def _from_source(self, source: ArraySource) -> Iterator[LazyBatch]:
        if source.fused is not None:
            source.fused.begin_epoch()
        order = torch.randperm if self.shuffle else torch.arange
        batches = order(len(source.labels), device=source.images.device).split(self.batch_size)
        if self.device.type == "cpu":
            yield from self._several_at_once(source, batches)
        elif source.streamed:
            for rows in stream((source.images, source.labels), batches, self.device):
                yield LazyBatch(source.finish, rows)
        else:
            for index in batches:
                yield LazyBatch(source.batch, (index,))

    def _several_at_once(
        self, source: ArraySource, batches: tuple[torch.Tensor, ...]
    ) -> Iterator[LazyBatch]:
        """Makes some batches together, which spares a CPU the start of some twenty operations."""
        image_bytes = torch.float32.itemsize * source.images[:1].numel()
        count = max(1, AT_ONCE_BYTES // (self.batch_size * image_bytes))
        for first in range(0, len(batches), count):
            together = batches[first : first + count]
            parts = source.batch(torch.cat(together))
            for batch in zip(*(p.split(self.batch_size) for p in parts), strict=True):
                yield ready_batch(batch)

    def _from_loader(self) -> Iterator[LazyBatch]:
        loader = DataLoader(
            self.dataset,
            batch_size=self.batch_size,
            shuffle=self.shuffle,
            num_workers=self.num_workers,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_seed_worker,
        )
        for batch in loader:
            yield ready_batch(self._to_device(batch))

    def _to_device(self, batch: Any) -> tuple[torch.Tensor, ...]:
        inputs, labels, *not_aug = batch
        inputs = inputs.to(self.device, non_blocking=True)
        labels = labels.to(self.device, dtype=torch.int64, non_blocking=True)
        return inputs, labels, *(t.to(self.device, non_blocking=True) for t in not_aug)


def _seed_worker(worker: int) -> None:
    """Seeds NumPy and Python in a worker from torch's seed of that worker."""
    seed = torch.initial_seed()
    random.seed(seed)
    np.random.seed(seed % 2**32)
