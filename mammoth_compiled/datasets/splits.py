"""Subsets of a dataset under the labels and tasks that a protocol gives them."""

import copy
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch

from mammoth_compiled.errors import DataError


@dataclass(frozen=True)
class LabeledSubset:
    """Rows of a dataset; nothing is copied before `materialize`.

    Attributes:
        dataset: Has `data` and `targets`.
        name: What it is, for messages: "seq-x: the training set".
        rows: Indices of the rows, int64, [n]; None for all.
        targets: Class id of each row, [n].
        true_targets: Class ids without noise, [n]; None if they are `targets`.
        tasks: Task of each row, [n]; None if it is the task of the class.

    Example:
        >>> from types import SimpleNamespace
        >>> images = SimpleNamespace(data=np.arange(4), targets=np.array([0, 1, 0, 1]))
        >>> subset = LabeledSubset(images, "the training set", np.array([3, 2]), np.array([7, 8]))
        >>> subset.select(np.array([False, True])).materialize().data
        array([2])
    """

    dataset: Any
    name: str
    rows: np.ndarray | None
    targets: np.ndarray
    true_targets: np.ndarray | None = None
    tasks: np.ndarray | None = None

    @classmethod
    def whole(cls, dataset: Any, name: str) -> Self:
        """Returns all rows of a dataset."""
        return cls(dataset, name, None, np.asarray(dataset.targets))

    def select(self, mask: np.ndarray) -> Self:
        """Returns the rows that a mask, bool, [n], selects."""
        rows = np.arange(len(self.targets)) if self.rows is None else self.rows

        def pick(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[mask]

        return replace(
            self,
            rows=rows[mask],
            targets=self.targets[mask],
            true_targets=pick(self.true_targets),
            tasks=pick(self.tasks),
        )

    def mask_of_task(self, task: int, offsets: tuple[int, int]) -> np.ndarray:
        """Returns which rows belong to a task, bool, [n].

        Args:
            task: The task, from 0.
            offsets: Its (first class, last class + 1).

        Raises:
            DataError: If there is none.
        """
        mask: np.ndarray
        if self.tasks is not None:
            mask = self.tasks == task
        else:
            mask = (self.targets >= offsets[0]) & (self.targets < offsets[1])
        if not mask.any():
            raise DataError(
                f"{self.name} has no image of classes {offsets[0]} to {offsets[1] - 1} "
                f"(task {task + 1}): check its labels, or give fewer tasks with --n_tasks"
            )
        return mask

    def of_task(self, task: int, offsets: tuple[int, int]) -> Self:
        """Returns the rows of a task; see `mask_of_task`."""
        return self.select(self.mask_of_task(task, offsets))

    def materialize(self) -> Any:
        """Returns a copy of the dataset that has only these rows; itself if they are all.

        Fields that the dataset adds to its items follow the rows. If labels are noisy, the items of
        the copy have a further part, the true labels.
        """
        if self.rows is None and self.targets is self.dataset.targets:
            return self.dataset
        copied = copy.copy(self.dataset)
        # User code may add names to it, also for a dataset that has no fields yet.
        copied.extra_return_fields = tuple(getattr(self.dataset, "extra_return_fields", ()))
        if self.rows is not None:
            copied.data = take_rows(self.dataset.data, self.rows)
            for name in copied.extra_return_fields:
                values = getattr(self.dataset, name)
                if len(values) == len(self.dataset.targets):
                    setattr(copied, name, take_rows(values, self.rows))
        copied.targets = self.targets
        if self.true_targets is not None:
            copied.true_labels = self.true_targets
            copied.extra_return_fields += ("true_labels",)
        return copied


def take_rows(data: Any, rows: np.ndarray) -> Any:
    """Returns the images with these indices; a list of unequal images or of paths stays a list."""
    if isinstance(data, torch.Tensor):
        return data[torch.from_numpy(rows)]
    if isinstance(data, (list, tuple)):
        shapes = {image.shape if isinstance(image, np.ndarray) else None for image in data}
        if None in shapes or len(shapes) > 1:
            return [data[i] for i in rows]
    return np.asarray(data)[rows]


def concatenate(parts: list[Any], name: str) -> Any:
    """Returns the images of several datasets as one, with the transform of the first.

    Args:
        parts: Each has `data` and `targets`.
        name: What they are, for the message.

    Raises:
        DataError: If their images are not arrays of one shape.
    """
    shapes = {getattr(part.data, "shape", (None, None))[1:] for part in parts}
    if len(shapes) > 1 or not all(isinstance(part.data, np.ndarray) for part in parts):
        raise DataError(
            f"{name}: joint training needs `data` to be an array of the same shape for all tasks"
        )
    joined = copy.copy(parts[0])
    joined.data = np.concatenate([part.data for part in parts])
    joined.targets = np.concatenate([np.asarray(part.targets) for part in parts])
    for field in getattr(joined, "extra_return_fields", ()):
        setattr(joined, field, np.concatenate([getattr(part, field) for part in parts]))
    return joined
