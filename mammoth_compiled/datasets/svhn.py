"""SVHN in 5 tasks of 2 digits.

Source: Netzer et al. 2011, "Reading Digits in Natural Images with Unsupervised Feature Learning".
"""

from functools import lru_cache, partial
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
from torchvision import transforms
from torchvision.datasets import SVHN

from mammoth_compiled.datasets.arrays import ArrayDataset
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.datasets.download import data_dir, load_or_download
from mammoth_compiled.errors import DataError
from mammoth_compiled.registry import register_dataset


@register_dataset("seq-svhn")
class SequentialSVHN(ContinualDataset):
    """SVHN, 73,257 + 26,032 images of house numbers, 5 tasks x 2 digits, 32x32x3."""

    SETTING = "class-il"
    SHARES_IMAGES = True
    N_CLASSES_PER_TASK = 2
    N_TASKS = 5
    SIZE = (32, 32)
    MEAN = (0.4377, 0.4438, 0.4728)
    STD = (0.1980, 0.2010, 0.1970)
    # No flip, because mirrored digits are other signs.
    TRANSFORM = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    TEST_TRANSFORM = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    CLASS_NAMES = tuple("0123456789")
    DEFAULTS: ClassVar[dict[str, Any]] = {"lr": 0.03, "batch_size": 32, "n_epochs": 30}

    def get_data_loaders(self) -> tuple[ArrayDataset, ArrayDataset]:
        """Returns the complete training and test sets, downloaded if the files are missing.

        Raises:
            DataError: If the files are missing and the download fails, or SciPy is missing.
        """
        root = data_dir(self.config)
        _require_scipy(self.NAME)
        splits = [
            load_or_download(
                self.NAME,
                partial(_load, str(root), split),
                [root],
                f"The file is {SVHN.split_list[split][0]}.",
            )
            for split in ("train", "test")
        ]
        (images, labels), (test_images, test_labels) = splits
        return (
            ArrayDataset(images, labels, self.TRANSFORM),
            ArrayDataset(test_images, test_labels, self.TEST_TRANSFORM),
        )

    @staticmethod
    def get_backbone() -> str:
        """Returns the name of the default backbone."""
        return "resnet18"


@lru_cache(maxsize=2)
def _load(root: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images, uint8, [N, 32, 32, 3], and labels, int64, [N], of a split."""
    source = SVHN(root, split=split, download=True)
    images = np.ascontiguousarray(source.data.transpose(0, 2, 3, 1))
    return images, np.asarray(source.labels, np.int64)


def _require_scipy(name: str) -> None:
    try:
        import_module("scipy.io")
    except ImportError as error:
        raise DataError(f"{name} is stored in MATLAB files: pip install scipy") from error
