"""CUB-200-2011 in 10 tasks of 20 species of birds.

Source: Wah et al. 2011, "The Caltech-UCSD Birds-200-2011 Dataset".
"""

from typing import Any, ClassVar

import numpy as np
from torchvision import transforms

from mammoth_compiled.datasets.download import Archive, data_dir
from mammoth_compiled.datasets.image_files import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    FileList,
    SequentialCroppedFiles,
)
from mammoth_compiled.datasets.text_tables import read_table
from mammoth_compiled.registry import register_dataset

ARCHIVE = Archive(
    "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
    "97eceeb196236b17998738112f37df78",
    "CUB_200_2011",
)


@register_dataset("seq-cub200")
class SequentialCUB200(SequentialCroppedFiles):
    """CUB-200-2011, 5,994 + 5,794 images of birds, 10 tasks x 20 classes, 224x224x3.

    Images are stored with 256x256 pixels, 2.3 GB of disk in all and 120 MB of memory per task, and
    cropped in the batch.
    """

    N_CLASSES_PER_TASK = 20
    N_TASKS = 10
    TRANSFORM = transforms.Compose(
        [
            transforms.RandomCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    DEFAULTS: ClassVar[dict[str, Any]] = {"lr": 0.03, "batch_size": 32, "n_epochs": 50}

    def list_files(self) -> tuple[FileList, FileList]:
        """Returns the files of the archive, split as published.

        Raises:
            DataError: If the archive is missing and cannot be downloaded, or a list is incomplete.
        """
        root = ARCHIVE.find(self.NAME, data_dir(self.config))
        self.CLASS_NAMES = tuple(row[1] for row in read_table(root / "classes.txt", 2))
        files = dict(row[:2] for row in read_table(root / "images.txt", 2))
        classes = dict(row[:2] for row in read_table(root / "image_class_labels.txt", 2))
        is_train = dict(row[:2] for row in read_table(root / "train_test_split.txt", 2))
        train, test = (
            FileList(
                root / "images",
                [files[i] for i in files if is_train[i] == flag],
                np.array([int(classes[i]) - 1 for i in files if is_train[i] == flag]),
            )
            for flag in ("1", "0")
        )
        return train, test
