"""Fashion-MNIST in 5 tasks of 2 classes, as 32x32 color images.

Source: Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torchvision import transforms
from torchvision.datasets import FashionMNIST

from mammoth_compiled.datasets.idx import SequentialIDX, file_stems, read_idx
from mammoth_compiled.registry import register_dataset

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
PACKAGED = Path(__file__).parent / "files" / "fashion-mnist-mini"


@register_dataset("seq-fmnist")
class SequentialFashionMNIST(SequentialIDX):
    """Fashion-MNIST, 60,000 + 10,000 images, 5 tasks x 2 classes, 32x32x3."""

    SETTING = "class-il"
    N_CLASSES_PER_TASK = 2
    N_TASKS = 5
    SIZE = (32, 32)
    MEAN = (0.2190, 0.2190, 0.2190)
    STD = (0.3318, 0.3318, 0.3318)
    TRANSFORM = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    TEST_TRANSFORM = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    CLASS_NAMES = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    DEFAULTS: ClassVar[dict[str, Any]] = {"lr": 0.03, "batch_size": 32, "n_epochs": 1}

    RAW: ClassVar[str] = "FashionMNIST/raw"
    HINT: ClassVar[str] = "On Debian: apt-get install dataset-fashion-mnist"

    def folders(self, root: Path) -> list[Path]:
        """Returns the data folder, a folder in it, and the folder of the Debian package."""
        return [root, root / "fashion-mnist", DEBIAN]

    def download(self, root: Path) -> FashionMNIST:
        """Downloads the files with torchvision."""
        return FashionMNIST(str(root), download=True)

    @staticmethod
    @lru_cache(maxsize=4)
    def read(images: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
        """Returns the images, zero-padded and repeated to [N, 32, 32, 3], and the labels, [N]."""
        data = np.pad(read_idx(images), ((0, 0), (2, 2), (2, 2)))
        return np.repeat(data[..., None], 3, axis=3), read_idx(labels).astype(np.int64)

    @staticmethod
    def get_backbone() -> str:
        """Returns the name of the default backbone."""
        return "resnet18"


@register_dataset("seq-fmnist-mini")
class SequentialFashionMNISTMini(SequentialFashionMNIST):
    """Subset of Fashion-MNIST shipped with the package, 6,000 + 2,000 images, 32x32x3."""

    def files(self, split: str) -> list[Path]:
        """Returns the packaged image and label files of a split."""
        return [PACKAGED / f"{stem}.gz" for stem in file_stems(split)]

    @staticmethod
    def get_backbone() -> str:
        """Returns the name of the default backbone."""
        return "cnn"
