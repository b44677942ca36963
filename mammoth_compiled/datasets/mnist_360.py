"""MNIST-360: a stream of slowly rotating digits without task boundaries.

Source: Buzzega et al. 2020, "Dark Experience for General Continual Learning", arXiv 2004.07211,
section 4 and supplementary material.
"""

from typing import Any, ClassVar

import numpy as np
from PIL import Image

from mammoth_compiled.datasets.arrays import ArrayDataset
from mammoth_compiled.datasets.mnist import SequentialMNIST
from mammoth_compiled.registry import register_dataset

NUM_DIGITS = 9  # a turned 9 is a 6
ROUNDS = 3


@register_dataset("mnist-360")
class MNIST360(SequentialMNIST):
    """MNIST without 9, one pass in which two digits at a time rotate slowly, general CL, 28x28x1.

    The pairs are (0, 1), (1, 2), ..., (8, 0), three times around. Each digit appears six times with
    a sixth of its images each, and turns by 360 degrees in all. The two digits of a pair alternate
    in proportion to their images. Digit j starts at (j - 1) * 60 degrees. The test set shows every
    digit at all angles.
    """

    SETTING = "general-continual"
    N_CLASSES_PER_TASK = NUM_DIGITS
    N_TASKS = 1
    CLASS_NAMES = tuple("012345678")
    DEFAULTS: ClassVar[dict[str, Any]] = {"lr": 0.1, "batch_size": 16, "n_epochs": 1}

    _rotated: tuple[ArrayDataset, ArrayDataset] | None = None

    def get_data_loaders(self) -> tuple[ArrayDataset, ArrayDataset]:
        """Returns the stream in its order, and the test set; see `SequentialMNIST`."""
        if self._rotated is None:
            train, test = super().get_data_loaders()
            order = stream_order(train.targets)
            self._rotated = (
                ArrayDataset(*_turn(train, order), self.TRANSFORM),
                ArrayDataset(*_turn(test, np.flatnonzero(test.targets < 9)), self.TEST_TRANSFORM),
            )
        return self._rotated


def stream_order(targets: np.ndarray) -> np.ndarray:
    """Returns the indices of the images in the order of the stream.

    Args:
        targets: Digits, [N].

    Returns:
        int64, [n], where n is the number of images of 0 to 8.
    """
    parts = {
        digit: iter(np.array_split(np.flatnonzero(targets == digit), 2 * ROUNDS))
        for digit in range(NUM_DIGITS)
    }
    segments = []
    for _ in range(ROUNDS):
        for first in range(NUM_DIGITS):
            pair = [next(parts[digit]) for digit in (first, (first + 1) % NUM_DIGITS)]
            # Where each image is within its part: sorting interleaves them in proportion.
            positions = [(np.arange(len(part)) + 0.5) / max(len(part), 1) for part in pair]
            order = np.argsort(np.concatenate(positions), kind="stable")
            segments.append(np.concatenate(pair)[order])
    return np.concatenate(segments)


def angles(targets: np.ndarray) -> np.ndarray:
    """Returns the angle at which each image of a stream is shown.

    Args:
        targets: Digits in the order of the stream, [N].

    Returns:
        Degrees, [N]: each digit turns by 360 degrees over its images.
    """
    result = np.empty(len(targets))
    for digit in np.unique(targets):
        rows = np.flatnonzero(targets == digit)
        result[rows] = ((digit - 1) * 60 + np.arange(len(rows)) * 360 / len(rows)) % 360
    return result


def _turn(split: ArrayDataset, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns rotated images, uint8, [n, 28, 28], and their digits, [n]."""
    images, targets = np.empty_like(split.data[rows]), split.targets[rows]
    for i, (row, angle) in enumerate(zip(rows, angles(targets), strict=True)):
        images[i] = Image.fromarray(split.data[row]).rotate(angle, Image.Resampling.BILINEAR)
    return images, targets
