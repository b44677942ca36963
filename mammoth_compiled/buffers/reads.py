"""BufferReads: everything that returns samples of a buffer: draws, chosen rows, all rows, items."""

from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from mammoth_compiled.buffers.fused import fused_rows
from mammoth_compiled.buffers.slots import FilledSlots
from mammoth_compiled.buffers.store import RowStore
from mammoth_compiled.data.transforms import apply_transform
from mammoth_compiled.distributed import part
from mammoth_compiled.kernels.runtime import philox


class BufferReads(RowStore):
    """The part of `Buffer` that reads.

    Attributes:
        num_seen_examples: Samples that the stream has offered so far.
        changes_between_tasks: Whether no training step adds samples.
        is_unlimited: Whether it grows with the stream.
    """

    num_seen_examples: int
    changes_between_tasks: bool
    is_unlimited: bool
    _slots: FilledSlots

    def __len__(self) -> int:
        """Returns the number of filled rows."""
        return self._slots.count(self.num_seen_examples, limit=self.num_rows)

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        """Returns one filled row: its example and every other attribute that holds data."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"buffer row {index} of {len(self)}")
        row = self._filled()[index]
        return [value.squeeze(0) for value in self.get_data_by_index(row[None])]

    def is_empty(self) -> bool:
        """Returns whether no row is filled yet."""
        return self._slots.count(self.num_seen_examples, limit=1) == 0

    def is_full(self) -> bool:
        """Returns whether all rows are filled."""
        return len(self) == self.buffer_size

    @property
    def has_static_reads(self) -> bool:
        """Whether reads no longer depend on the number of filled rows.

        From then on every training step runs the same operations on the same memory, so that it
        can be captured as a CUDA graph.
        """
        is_full = not self.is_unlimited and self._slots.has_static_count(self.num_seen_examples)
        return self.changes_between_tasks or is_full

    def _filled(self) -> torch.Tensor:
        """Returns the filled rows in order, int64."""
        return self._slots.indices(self.num_seen_examples)

    def get_data(
        self,
        size: int,
        transform: Any = None,
        return_index: bool = False,
        device: str | torch.device | None = None,
        mask_task_out: int | None = None,
        cpt: int | None = None,
        return_not_aug: bool = False,
        not_aug_transform: Any = None,
        force_indexes: Any = None,
    ) -> tuple[torch.Tensor, ...]:
        """Draws filled rows uniformly without replacement.

        Args:
            size: Number of rows to draw, M; all filled rows if there are fewer.
            transform: torchvision transform of one example, with random parameters of its own for
                every row.
            return_index: True prepends the indices of the rows, int64, [M].
            device: Device of the result; None for the buffer's device.
            mask_task_out: Draws no sample of this task, which takes a host sync; there may be none.
            cpt: Classes per task, to find the task of a sample if no task labels are stored.
            return_not_aug: True prepends the examples without `transform`, [M, ...].
            not_aug_transform: Transform of these.
            force_indexes: Rows to return instead of a draw, [M].

        Returns:
            examples, [M, ...], and every other attribute that holds data, in the order of
            `attributes`. In a step of data-parallel training, the part of this rank.

        Raises:
            ValueError: If the buffer is empty, `size` is not positive, or the tasks of the samples
                are unknown.
        """
        if force_indexes is None:
            index, data = self._draw_data(size, transform, device, mask_task_out, cpt)
        else:
            index = torch.as_tensor(force_indexes, device=self.device)
            data = self.get_data_by_index(index, transform, device)
        if return_not_aug:
            data = (self.get_data_by_index(index, not_aug_transform, device)[0], *data)
        if return_index:
            data = (index.to(data[0].device), *data)
        return tuple(map(part, data))

    def _draw_data(
        self,
        size: int,
        transform: Any,
        device: str | torch.device | None,
        mask_task_out: int | None,
        cpt: int | None,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Returns rows and their data, drawn and gathered in one launch where that is possible."""
        self._check_draw(size)
        draws_from = self._slots.kernel_draws_from(self.num_seen_examples)
        if draws_from and mask_task_out is None:
            count = self._slots.count(self.num_seen_examples, limit=size)
            index = torch.empty(count, dtype=torch.int64, device=self.device)
            data = self._fused(index, transform, device, draws_from)
            if data is not None:
                return index, data
        index = self._draw(size, mask_task_out, cpt)
        return index, self._gather(index, transform, device)

    def _check_draw(self, size: int) -> None:
        if self.is_empty():
            raise ValueError("get_data: the buffer is empty; check is_empty() first")
        if size < 1:
            raise ValueError(f"get_data: size must be at least 1, got {size}")

    def _draw(self, size: int, mask_task_out: int | None, cpt: int | None) -> torch.Tensor:
        if mask_task_out is None:
            size = self._slots.count(self.num_seen_examples, limit=size)
            return self._slots.sample(size, self.num_seen_examples, self.device)
        rows = self._filled().to(self.device)
        rows = rows[self._tasks(rows, cpt) != mask_task_out]
        return rows[torch.randperm(len(rows))[:size].to(self.device)]

    def _tasks(self, rows: torch.Tensor, cpt: int | None) -> torch.Tensor:
        if "task_labels" in self.used_attributes:
            return self.task_labels[rows]
        if cpt is None:
            raise ValueError("get_data: mask_task_out needs stored task_labels, or cpt=")
        return self.labels[rows] // cpt

    def get_balanced_data(
        self, size: int, transform: Any = None, n_classes: int = -1
    ) -> tuple[torch.Tensor, ...]:
        """Draws rows with equal numbers of each class.

        Numbers differ by at most one, unless a class has fewer samples. It takes a host sync.

        Args:
            size: Number of rows, M; fewer if the classes have fewer samples.
            transform: torchvision transform of one example.
            n_classes: Number of classes to draw from, at random; -1 for all.

        Returns:
            As `get_data`.

        Raises:
            ValueError: If the buffer is empty, or it stores no labels.
        """
        if self.is_empty():
            raise ValueError("get_balanced_data: the buffer is empty; check is_empty() first")
        if "labels" not in self.used_attributes:
            raise ValueError("get_balanced_data: the buffer stores no labels: add them as well")
        rows = self._filled().to(self.device)
        classes = self.labels[rows].unique()
        chosen = classes[torch.randperm(len(classes))[: n_classes if n_classes > 0 else None]]
        rows = rows[torch.isin(self.labels[rows], chosen)]
        rows = rows[torch.randperm(len(rows)).to(self.device)]
        # The position of each sample within its class, in random order.
        labels = self.labels[rows]
        position = (labels[:, None] == labels).tril(-1).sum(1)
        rows = rows[position.argsort(stable=True)[:size]]
        return tuple(map(part, self.get_data_by_index(rows, transform)))

    def get_data_by_index(
        self, indexes: torch.Tensor, transform: Any = None, device: str | torch.device | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Returns the rows with the given indices, int64, [M]; see `get_data`."""
        if self._slots.random is not None:
            # A draw leaves random numbers for the transform; chosen rows need new ones as well.
            philox.advance(self._slots.random)
        return self._gather(indexes, transform, device)

    def _gather(
        self, indexes: torch.Tensor, transform: Any, device: str | torch.device | None
    ) -> tuple[torch.Tensor, ...]:
        index = torch.as_tensor(indexes, device=self.device)
        rows = self._fused(index, transform, device)
        if rows is not None:
            return rows
        target = self.device if device is None else torch.device(device)
        stores = [getattr(self, name) for name in self.read_attributes]
        examples, *others = (store[index].to(target) for store in stores)
        # Few transforms take an empty batch.
        return apply_transform(examples, transform if len(examples) else None), *others

    def _fused(
        self,
        index: torch.Tensor,
        transform: Any,
        device: str | torch.device | None,
        draws_from: int = 0,
    ) -> tuple[torch.Tensor, ...] | None:
        """Returns rows that one kernel gathers; see `fused_rows`."""
        if torch.compiler.is_compiling():
            # A graph would freeze how many rows are filled.
            raise RuntimeError("training_loss reads the buffer: read it in draw(batch)")
        target = self.device if device is None else torch.device(device)
        stores = [getattr(self, name) for name in self.read_attributes]
        random = self._slots.random if target.type == self.device.type else None
        return fused_rows(stores[0], stores[1:], index, transform, random, draws_from)

    def get_all_data(
        self, transform: Any = None, device: str | torch.device | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Returns all filled rows in order; see `get_data`."""
        return self.get_data_by_index(self._filled(), transform, device)

    def get_dataloader(
        self,
        args: Any,
        batch_size: int,
        shuffle: bool = False,
        drop_last: bool = False,
        transform: Any = None,
        sampler: Any = None,
    ) -> DataLoader:
        """Returns a DataLoader over the filled rows; later additions are seen too.

        Args:
            args: Ignored; Mammoth passes the arguments of the run.
            batch_size: Rows per batch.
            shuffle: Whether each pass has an order of its own.
            drop_last: Whether to leave out a last batch with fewer rows.
            transform: torchvision transform of one example.
            sampler: See `torch.utils.data.DataLoader`.
        """
        items = _Items(self, transform)
        return DataLoader(items, batch_size, shuffle, sampler, drop_last=drop_last)


class _Items(Dataset):
    """The rows of a buffer, each example transformed."""

    def __init__(self, buffer: BufferReads, transform: Any) -> None:
        self.buffer = buffer
        self.transform = transform

    def __len__(self) -> int:
        return len(self.buffer)

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        example, *others = self.buffer[index]
        return [apply_transform(example[None], self.transform)[0], *others]
