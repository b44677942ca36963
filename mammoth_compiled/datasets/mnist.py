"""MNIST in 5 tasks of 2 classes.

Source: LeCun et al. 1998; the task sequence of van de Ven and Tolias 2018, arXiv 1809.10635.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torchvision import transforms
from torchvision.datasets import MNIST

from mammoth_compiled.datasets.idx import SequentialIDX, read_idx
from mammoth_compiled.registry import register_dataset


@register_dataset("seq-mnist")
class SequentialMNIST(SequentialIDX):
    """MNIST, 60,000 + 10,000 images, 5 tasks x 2 digits, 28x28x1."""

    SETTING = "class-il"
    N_CLASSES_PER_TASK = 2
    N_TASKS = 5
    SIZE = (28, 28)
    # The literature trains on images in [0, 1] without normalization.
    MEAN = (0.0,)
    STD = (1.0,)
    TRANSFORM = transforms.ToTensor()
    TEST_TRANSFORM = transforms.ToTensor()
    CLASS_NAMES = tuple("0123456789")
    DEFAULTS: ClassVar[dict[str, Any]] = {"lr": 0.1, "batch_size": 64, "n_epochs": 1}

    RAW: ClassVar[str] = "MNIST/raw"

    def folders(self, root: Path) -> list[Path]:
        """Returns a folder of its own, because the files of Fashion-MNIST have the same names."""
        return [root / "mnist"]

    def download(self, root: Path) -> MNIST:
        """Downloads the files with torchvision."""
        return MNIST(str(root), download=True)

    @staticmethod
    @lru_cache(maxsize=2)
    def read(images: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
        """Returns the images, uint8, [N, 28, 28], and the labels, int64, [N]."""
        return read_idx(images), read_idx(labels).astype(np.int64)

    @staticmethod
    def get_backbone() -> str:
        """Returns the name of the default backbone."""
        return "mnistmlp"
