"""SequentialImageFiles: base of the datasets whose images are files of any size."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torchvision import transforms

from mammoth_compiled.datasets.arrays import ArrayDataset
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.datasets.decode import decoded

# Of ImageNet, with which most pretrained networks normalize.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class FileList:
    """The image files of a split.

    Attributes:
        root: Folder of the files.
        files: Paths relative to it.
        targets: Class id of each file, [N].
    """

    root: Path
    files: list[str]
    targets: np.ndarray


class SequentialImageFiles(ContinualDataset):
    """Base of datasets of image files, which are decoded once; see `datasets.decode`.

    A subclass defines `list_files`.

    Attributes:
        STORED_SIZE: Height and width of the decoded images, pixels; None for the height in `SIZE`.
    """

    SETTING = "class-il"
    MEAN = IMAGENET_MEAN
    STD = IMAGENET_STD
    SHARES_IMAGES = True
    STORED_SIZE: ClassVar[int | None] = None

    _decoded: tuple[ArrayDataset, ArrayDataset] | None = None

    def list_files(self) -> tuple[FileList, FileList]:
        """Returns the training and the test files."""
        raise NotImplementedError

    def get_data_loaders(self) -> tuple[ArrayDataset, ArrayDataset]:
        """Returns the complete training and test sets; their images are mapped from disk.

        Raises:
            DataError: If files are missing or cannot be decoded; names them.
        """
        if self._decoded is None:
            self._decoded = self.read_files(*self.list_files())
        return self._decoded

    def read_files(self, train: FileList, test: FileList) -> tuple[ArrayDataset, ArrayDataset]:
        """Returns the images of the files under the transforms of the dataset."""
        size = self.STORED_SIZE or self.SIZE[0]
        train_set, test_set = (
            ArrayDataset(decoded(split.root, split.files, size), split.targets, transform)
            for split, transform in ((train, self.TRANSFORM), (test, self.TEST_TRANSFORM))
        )
        return train_set, test_set

    @staticmethod
    def get_backbone() -> str:
        """Returns the name of the default backbone."""
        return "resnet18"


class SequentialCroppedFiles(SequentialImageFiles):
    """Base of datasets whose images are stored with 256x256 pixels and cropped in the batch.

    Test images are cropped in the center. The replay buffer stores 256x256 pixels too.
    """

    SIZE = (224, 224)
    STORED_SIZE = 256
    TEST_TRANSFORM = transforms.Compose(
        [
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )

    @classmethod
    def get_normalization_transform(cls) -> Any:
        """Returns the transform that crops and normalizes a stored float image in [0, 1]."""
        crop, _, normalize = cls.TEST_TRANSFORM.transforms
        return transforms.Compose([crop, normalize])

    @staticmethod
    def get_backbone() -> str:
        """Returns the name of the default backbone, which is made for images of this size."""
        return "tv:resnet18"


def small_image_transforms(
    size: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[Any, Any]:
    """Returns the transforms for training and test of images that are stored in their final size.

    Training images are shifted by up to an eighth of their size and flipped.
    """
    end = [transforms.ToTensor(), transforms.Normalize(mean, std)]
    crop = transforms.RandomCrop(size, padding=size // 8)
    return (
        transforms.Compose([crop, transforms.RandomHorizontalFlip(), *end]),
        transforms.Compose(end),
    )
