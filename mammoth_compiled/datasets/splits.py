"""Splits a dataset by class."""

import copy
from typing import Any

import numpy as np
import torch

from mammoth_compiled.errors import DataError


def select_classes(dataset: Any, offsets: tuple[int, int], name: str, task: int) -> Any:
    """Returns a copy of a dataset that has only the images of a range of classes.

    Args:
        dataset: Has `data` and `targets`.
        offsets: (first class, last class + 1).
        name: What the dataset is, for the message.
        task: The task that has these classes, from 0, likewise.

    Raises:
        DataError: If it has no image of these classes.
    """
    targets = np.asarray(dataset.targets)
    mask = (targets >= offsets[0]) & (targets < offsets[1])
    if not mask.any():
        raise DataError(
            f"{name} has no image of classes {offsets[0]} to {offsets[1] - 1} (task {task + 1})"
        )
    selected = copy.copy(dataset)
    selected.data = _rows(dataset.data, mask)
    selected.targets = targets[mask]
    return selected


def _rows(data: Any, mask: np.ndarray) -> Any:
    """Returns the images that a mask selects; a list of unequal images or of paths stays a list."""
    if isinstance(data, torch.Tensor):
        return data[torch.from_numpy(mask)]
    if isinstance(data, (list, tuple)):
        shapes = {image.shape if isinstance(image, np.ndarray) else None for image in data}
        if None in shapes or len(shapes) > 1:
            return [data[i] for i in np.flatnonzero(mask)]
    return np.asarray(data)[mask]
