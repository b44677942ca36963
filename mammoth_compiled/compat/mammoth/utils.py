"""Mammoth's `utils`, `utils.conf`, `utils.status` and `utils.batch_norm`."""

import os
import random
import warnings
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from mammoth_compiled.backbones.batch_norm import bn_track_stats
from mammoth_compiled.config import boolean
from mammoth_compiled.device import base_path, get_device, set_seed

__all__ = [
    "base_path",
    "binary_to_boolean_type",
    "bn_track_stats",
    "create_if_not_exists",
    "create_seeded_dataloader",
    "get_device",
    "none_or_float",
    "progress_bar",
    "set_random_seed",
    "smart_joint",
    "warn_once",
]


def binary_to_boolean_type(value: Any) -> bool:
    """Converts 0/1, false/true or no/yes, in any case, to a boolean.

    Example:
        >>> binary_to_boolean_type("1"), binary_to_boolean_type(False)
        (True, False)
    """
    return boolean(str(value))


def none_or_float(value: str) -> float | None:
    """Converts "None" to None and everything else to a number."""
    return None if value == "None" else float(value)


def smart_joint(*paths: str) -> str:
    """Joins parts of a path."""
    return os.path.join(*paths)


def create_if_not_exists(path: str) -> None:
    """Creates a folder and its parents."""
    os.makedirs(path, exist_ok=True)


def set_random_seed(seed: int) -> None:
    """Seeds the random number generators of Python, NumPy and torch."""
    set_seed(seed)


def warn_once(*messages: Any) -> None:
    """Warns; Python shows a warning of the same line once."""
    warnings.warn(" ".join(map(str, messages)), stacklevel=2)


def progress_bar(i: int, max_iter: int, epoch: int | str, task_number: int, loss: float) -> None:
    """Does nothing: the run has a progress bar of its own."""


def create_seeded_dataloader(
    args: Any, dataset: Any, non_verbose: bool = True, **options: Any
) -> DataLoader:
    """Returns a DataLoader whose workers are seeded from torch's generator.

    Args:
        args: The arguments of the run.
        dataset: A map-style dataset.
        non_verbose: Ignored.
        **options: Options of `DataLoader`; `num_workers` is 0 unless given.
    """
    return DataLoader(dataset, **{"num_workers": 0, "worker_init_fn": _seed_worker, **options})


def _seed_worker(worker: int) -> None:
    seed = torch.initial_seed() % 2**32
    random.seed(seed)
    np.random.seed(seed)
