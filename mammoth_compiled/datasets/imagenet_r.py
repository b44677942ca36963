"""ImageNet-R in 10 tasks of 20 classes.

Source: Hendrycks et al. 2021, "The Many Faces of Robustness", arXiv 2006.16241; the task sequence
of Wang et al. 2022, DualPrompt, arXiv 2204.04799.
"""

from typing import Any, ClassVar

from torchvision import transforms

from mammoth_compiled.datasets.download import Archive, data_dir
from mammoth_compiled.datasets.folder import find_splits
from mammoth_compiled.datasets.image_files import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    FileList,
    SequentialCroppedFiles,
)
from mammoth_compiled.registry import register_dataset

ARCHIVE = Archive(
    "https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar",
    "a61312130a589d0ca1a8fca1f2bd3337",
    "imagenet-r",
)
TEST_FRACTION = 0.2


@register_dataset("seq-imagenet-r")
class SequentialImageNetR(SequentialCroppedFiles):
    """ImageNet-R, 30,000 renditions of objects, 10 tasks x 20 classes, 224x224x3.

    The archive has no test set: 20 % of each class are drawn, always the same. To use published
    lists instead, move the files into `imagenet-r/train/CLASS` and `imagenet-r/test/CLASS`. Images
    are stored with 256x256 pixels, 5.9 GB of disk in all and 470 MB of memory per task.
    """

    N_CLASSES_PER_TASK = 20
    N_TASKS = 10
    TRANSFORM = transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    DEFAULTS: ClassVar[dict[str, Any]] = {"lr": 0.03, "batch_size": 32, "n_epochs": 50}

    def list_files(self) -> tuple[FileList, FileList]:
        """Returns the files of the archive; classes are in the order of their WordNet ids.

        Raises:
            DataError: If the archive is missing and cannot be downloaded.
        """
        root = ARCHIVE.find(self.NAME, data_dir(self.config))
        self.CLASS_NAMES, train, test = find_splits(self.NAME, root, TEST_FRACTION, seed=0)
        return train, test
