"""MNIST in 5 tasks of 2 classes.

Source: LeCun et al. 1998; the task sequence of van de Ven and Tolias 2018, arXiv 1809.10635.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torchvision import transforms
from torchvision.datasets import MNIST

from mammoth_compiled.datasets.arrays import ArrayDataset, fetch, find_idx_files, read_idx
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.datasets.fashion_mnist import stems
from mammoth_compiled.datasets.paths import data_dir
from mammoth_compiled.registry import register_dataset


@lru_cache(maxsize=2)
def load_split(images: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns images [N, 28, 28] and labels [N]."""
    return read_idx(images), read_idx(labels).astype(np.int64)


@register_dataset("seq-mnist")
class SequentialMNIST(ContinualDataset):
    """MNIST, 60,000 + 10,000 images, 5 tasks x 2 digits, 28x28x1."""

    SETTING = "class-il"
    N_CLASSES_PER_TASK = 2
    N_TASKS = 5
    SIZE = (28, 28)
    # The literature trains on images in [0, 1] as they are.
    MEAN = (0.0,)
    STD = (1.0,)
    TRANSFORM = transforms.ToTensor()
    TEST_TRANSFORM = transforms.ToTensor()
    CLASS_NAMES = tuple("0123456789")
    DEFAULTS: ClassVar[dict[str, Any]] = {"lr": 0.1, "batch_size": 64, "n_epochs": 1}

    def get_data_loaders(self) -> tuple[ArrayDataset, ArrayDataset]:
        """Returns the whole training and test set.

        Raises:
            DataError: If the files are neither there nor to be had; names the folders searched.
        """
        train = load_split(*self._files("train"))
        test = load_split(*self._files("test"))
        return ArrayDataset(*train, self.TRANSFORM), ArrayDataset(*test, self.TEST_TRANSFORM)

    def _files(self, split: str) -> list[Path]:
        root = data_dir(self.args)
        raw = root / "MNIST" / "raw"
        # Not the folder itself: Fashion-MNIST's files have the same names.
        folders = [root / "mnist", raw]
        files = find_idx_files(folders, stems(split))
        if files is None:
            fetch(self.NAME, lambda: MNIST(str(root), download=True), folders)
            files = find_idx_files([raw], stems(split))
        assert files is not None
        return files

    @staticmethod
    def get_backbone() -> str:
        """Returns the default backbone."""
        return "mnistmlp"
