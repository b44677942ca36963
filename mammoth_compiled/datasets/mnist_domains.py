"""Permuted and rotated MNIST: the same digits in other domains.

Source: Kirkpatrick et al. 2017, arXiv 1612.00796 (permuted); Lopez-Paz and Ranzato 2017,
arXiv 1706.08840 (rotated); 20 tasks as in Buzzega et al. 2020, arXiv 2004.07211.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from mammoth_compiled.datasets.arrays import ArrayDataset
from mammoth_compiled.datasets.mnist import SequentialMNIST
from mammoth_compiled.registry import register_dataset

SIDE = 28


class DomainMNIST(SequentialMNIST):
    """Base of both datasets: every task moves the pixels of all images in its own way.

    What a task does depends on the seed of the run, 0 if there is none, and on the task alone. It
    is computed for all images at once when the task begins.
    """

    SETTING = "domain-il"
    N_CLASSES_PER_TASK = 10
    N_TASKS = 20
    ANY_N_TASKS = True
    DEFAULTS: ClassVar[dict[str, Any]] = {"lr": 0.1, "batch_size": 128, "n_epochs": 1}

    def sources(self, task: int) -> np.ndarray:
        """Returns the index of the pixel that each pixel shows, [784]; -1 for black."""
        raise NotImplementedError

    def generator(self, task: int) -> np.random.Generator:
        """Returns the random numbers of a task."""
        return np.random.default_rng([self.config.experiment.seed or 0, task])

    def get_data_loaders(self) -> tuple[ArrayDataset, ArrayDataset]:
        """Returns the training and test sets of the current task; see `SequentialMNIST`."""
        sources = self.sources(self.c_task)
        splits = []
        for split in super().get_data_loaders():
            pixels = split.data.reshape(len(split), -1)
            padded = np.pad(pixels, ((0, 0), (0, 1)))  # the last pixel, -1, is black
            split.data = np.take(padded, sources, axis=1).reshape(-1, SIDE, SIDE)
            splits.append(split)
        train, test = splits
        return train, test

    def determined_by(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the arguments that determine the tasks, the seed among them."""
        return {**super().determined_by(args), "seed": args.get("seed")}


@register_dataset("perm-mnist")
class PermutedMNIST(DomainMNIST):
    """MNIST, 60,000 + 10,000 images, 20 tasks with permuted pixels, domain-IL, 28x28x1.

    The pixels of the first task are permuted too.
    """

    def sources(self, task: int) -> np.ndarray:
        """Returns a permutation of the pixels."""
        return self.generator(task).permutation(SIDE * SIDE)


@register_dataset("rot-mnist")
class RotatedMNIST(DomainMNIST):
    """MNIST, 60,000 + 10,000 images, 20 tasks at angles in [0, 180) degrees, domain-IL, 28x28x1."""

    def sources(self, task: int) -> np.ndarray:
        """Returns the nearest pixel of the rotated image."""
        return rotation_sources(self.angle(task))

    def angle(self, task: int) -> float:
        """Returns the angle of a task in degrees, counterclockwise."""
        return float(self.generator(task).uniform(0, 180))


def rotation_sources(angle: float) -> np.ndarray:
    """Returns which pixel each pixel of a rotated image shows, like Pillow's nearest filter.

    Args:
        angle: Degrees, counterclockwise.

    Returns:
        Indices into the flattened image, int64, [784]; -1 for pixels from outside.

    Example:
        >>> rotation_sources(0)[:3]
        array([0, 1, 2])
    """
    numbers = np.arange(1, SIDE * SIDE + 1, dtype=np.int32).reshape(SIDE, SIDE)
    rotated = Image.fromarray(numbers).rotate(angle, Image.Resampling.NEAREST, fillcolor=0)
    return np.asarray(rotated).reshape(-1).astype(np.int64) - 1
