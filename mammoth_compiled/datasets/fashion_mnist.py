"""Fashion-MNIST in 5 tasks of 2 classes, as 32x32 colour images.

Source: Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torchvision import transforms
from torchvision.datasets import FashionMNIST

from mammoth_compiled.datasets.arrays import ArrayDataset, fetch, find_idx_files, read_idx
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.datasets.paths import data_dir
from mammoth_compiled.registry import register_dataset

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
PACKAGED = Path(__file__).parent / "files" / "fashion-mnist-mini"
SPLITS = {"train": "train", "test": "t10k"}


def stems(split: str) -> list[str]:
    """Returns the names of the image and the label file of a split."""
    return [f"{SPLITS[split]}-images-idx3-ubyte", f"{SPLITS[split]}-labels-idx1-ubyte"]


@lru_cache(maxsize=4)
def load_split(images: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns images padded to 32x32 and repeated to 3 channels, [N, 32, 32, 3], and labels [N]."""
    data = np.pad(read_idx(images), ((0, 0), (2, 2), (2, 2)))
    return np.repeat(data[..., None], 3, axis=3), read_idx(labels).astype(np.int64)


@register_dataset("seq-fmnist")
class SequentialFashionMNIST(ContinualDataset):
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

    def get_data_loaders(self) -> tuple[ArrayDataset, ArrayDataset]:
        """Returns the whole training and test set.

        Raises:
            DataError: If the files are neither there nor to be had; names the folders searched.
        """
        train = load_split(*self.files("train"))
        test = load_split(*self.files("test"))
        return ArrayDataset(*train, self.TRANSFORM), ArrayDataset(*test, self.TEST_TRANSFORM)

    def files(self, split: str) -> list[Path]:
        """Returns the image and the label file of a split, "train" or "test"."""
        root = data_dir(self.args)
        raw = root / "FashionMNIST" / "raw"
        folders = [root, root / "fashion-mnist", raw, DEBIAN]
        files = find_idx_files(folders, stems(split))
        if files is None:
            hint = "On Debian: apt-get install dataset-fashion-mnist"
            fetch(self.NAME, lambda: FashionMNIST(str(root), download=True), folders, hint)
            files = find_idx_files([raw], stems(split))
        assert files is not None
        return files

    @staticmethod
    def get_backbone() -> str:
        """Returns the default backbone."""
        return "resnet18"


@register_dataset("seq-fmnist-mini")
class SequentialFashionMNISTMini(SequentialFashionMNIST):
    """Part of Fashion-MNIST that comes with the package, 6,000 + 2,000 images, 32x32x3."""

    def files(self, split: str) -> list[Path]:
        """Returns the packaged image and label file of a split."""
        return [PACKAGED / f"{stem}.gz" for stem in stems(split)]

    @staticmethod
    def get_backbone() -> str:
        """Returns the default backbone."""
        return "cnn"
