"""CIFAR-10 in 5 tasks of 2 classes, CIFAR-100 in 10 tasks of 10 classes.

Source: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images".
"""

from functools import lru_cache, partial
from typing import Any, ClassVar

import numpy as np
from torchvision import transforms
from torchvision.datasets import CIFAR10, CIFAR100

from mammoth_compiled.datasets.arrays import ArrayDataset
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.datasets.download import archive_hint, data_dir, load_or_download
from mammoth_compiled.registry import register_dataset


def _training_transform(mean: tuple[float, ...], std: tuple[float, ...]) -> transforms.Compose:
    return transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )


@lru_cache(maxsize=4)
def _load(source: Any, root: str, train: bool) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Returns the images, uint8, [N, 32, 32, 3], labels, int64, [N], and class names of a split."""
    split = source(root, train=train, download=True)
    return split.data, np.asarray(split.targets, np.int64), tuple(split.classes)


class SequentialCIFAR(ContinualDataset):
    """Base of both datasets: 32x32 color images in the files that torchvision downloads.

    Attributes:
        SOURCE: The dataset class of torchvision.
    """

    SETTING = "class-il"
    SIZE = (32, 32)
    SHARES_IMAGES = True
    SOURCE: ClassVar[type[CIFAR10]]

    def get_data_loaders(self) -> tuple[ArrayDataset, ArrayDataset]:
        """Returns the complete training and test sets, downloaded if the files are missing.

        Raises:
            DataError: If the files are missing and the download fails.
        """
        root = data_dir(self.config)
        source: Any = self.SOURCE
        folder = root / self.SOURCE.base_folder
        hint = archive_hint(source.url, source.tgz_md5)
        splits = [
            load_or_download(self.NAME, partial(_load, source, str(root), train), [folder], hint)
            for train in (True, False)
        ]
        (images, labels, self.CLASS_NAMES), (test_images, test_labels, _) = splits
        return (
            ArrayDataset(images, labels, self.TRANSFORM),
            ArrayDataset(test_images, test_labels, self.TEST_TRANSFORM),
        )

    @staticmethod
    def get_backbone() -> str:
        """Returns the name of the default backbone."""
        return "resnet18"


@register_dataset("seq-cifar10")
class SequentialCIFAR10(SequentialCIFAR):
    """CIFAR-10, 50,000 + 10,000 images, 5 tasks x 2 classes, 32x32x3."""

    SOURCE = CIFAR10
    N_CLASSES_PER_TASK = 2
    N_TASKS = 5
    MEAN = (0.4914, 0.4822, 0.4465)
    STD = (0.2470, 0.2435, 0.2615)
    TRANSFORM = _training_transform(MEAN, STD)
    TEST_TRANSFORM = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    DEFAULTS: ClassVar[dict[str, Any]] = {"lr": 0.1, "batch_size": 32, "n_epochs": 50}


@register_dataset("seq-cifar100")
class SequentialCIFAR100(SequentialCIFAR):
    """CIFAR-100, 50,000 + 10,000 images, 10 tasks x 10 classes, 32x32x3."""

    SOURCE = CIFAR100
    N_CLASSES_PER_TASK = 10
    N_TASKS = 10
    MEAN = (0.5071, 0.4867, 0.4408)
    STD = (0.2675, 0.2565, 0.2761)
    TRANSFORM = _training_transform(MEAN, STD)
    TEST_TRANSFORM = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    DEFAULTS: ClassVar[dict[str, Any]] = {"lr": 0.1, "batch_size": 32, "n_epochs": 50}
