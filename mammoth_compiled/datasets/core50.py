"""CORe50: 50 objects filmed in 11 sessions, by session (domain-IL) and by object (class-IL).

Source: Lomonaco and Maltoni 2017, "CORe50: a New Dataset and Benchmark for Continuous Object
Recognition", arXiv 1705.03550: the scenarios NI and NC, tested on sessions 3, 7 and 10.
"""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from torchvision import transforms

from mammoth_compiled.datasets.arrays import ArrayDataset
from mammoth_compiled.datasets.download import Archive, data_dir
from mammoth_compiled.datasets.image_files import (
    FileList,
    SequentialImageFiles,
    small_image_transforms,
)
from mammoth_compiled.errors import DataError
from mammoth_compiled.registry import register_dataset
from mammoth_compiled.signatures import Minimum

ARCHIVE = Archive(
    "http://bias.csr.unibo.it/maltoni/download/core50/core50_128x128.zip",
    "745f3373fed08d69343f1058ee559e13",
    "core50_128x128",
)
TRAIN_SESSIONS = (1, 2, 4, 5, 6, 8, 9, 11)
TEST_SESSIONS = (3, 7, 10)
NUM_OBJECTS = 50
CATEGORIES = (
    "plug adapter",
    "mobile phone",
    "scissors",
    "light bulb",
    "can",
    "glasses",
    "ball",
    "marker",
    "cup",
    "remote control",
)


class CORe50(SequentialImageFiles):
    """Base of both scenarios.

    Args:
        args: The arguments of the run.
        image_size: Height and width of the images that the network sees, pixels.
    """

    CLASS_NAMES = tuple(f"{category} {i}" for category in CATEGORIES for i in range(1, 6))
    DEFAULTS: ClassVar[dict[str, Any]] = {"lr": 0.01, "batch_size": 128, "n_epochs": 1}

    def __init__(self, args: Namespace, image_size: Annotated[int, Minimum(8)] = 128) -> None:
        self.SIZE = (image_size, image_size)
        self.TRANSFORM, self.TEST_TRANSFORM = small_image_transforms(
            image_size, self.MEAN, self.STD
        )
        super().__init__(args)

    def sessions(self, numbers: Sequence[int]) -> FileList:
        """Returns the images of sessions; the class is the object.

        Raises:
            DataError: If the archive is missing and cannot be downloaded, or has no such images.
        """
        root = ARCHIVE.find(self.NAME, data_dir(self.config))
        files, targets = [], []
        for number in numbers:
            for k in range(NUM_OBJECTS):
                names = _images(root, number, k + 1)
                files += names
                targets += [k] * len(names)
        if not files:
            raise DataError(
                f"{self.NAME}: {root} has no images sN/oM/*.png of sessions "
                f"{', '.join(map(str, numbers))}: extract the archive again"
            )
        return FileList(root, files, np.array(targets))

    def get_transform(self) -> Any:  # type: ignore[override]  # depends on --image_size
        """Returns the training transform of replayed images, float tensors in [0, 1]."""
        return transforms.Compose([transforms.ToPILImage(), self.TRANSFORM])


def _images(root: Path, session: int, object_number: int) -> list[str]:
    folder = f"s{session}/o{object_number}"
    return [f"{folder}/{path.name}" for path in sorted((root / folder).glob("*.png"))]


@register_dataset("core50")
class CORe50NewInstances(CORe50):
    """CORe50 by session (NI), 164,866 frames of 50 objects, 8 tasks x 50 classes, domain-IL.

    Every task is tested on the same three sessions. With 128x128 pixels the decoded images take
    8.1 GB of disk and 0.8 GB of memory per task; `--image_size 32` a sixteenth.
    """

    SETTING = "domain-il"
    N_CLASSES_PER_TASK = NUM_OBJECTS
    N_TASKS = len(TRAIN_SESSIONS)

    _test_files: FileList | None = None
    _test_set: ArrayDataset | None = None

    def get_data_loaders(self) -> tuple[ArrayDataset, ArrayDataset]:
        """Returns the session of the current task, and the test sessions."""
        if self._test_files is None:
            self._test_files = self.sessions(TEST_SESSIONS)
        train = self.sessions([TRAIN_SESSIONS[self.c_task]])
        train_set, test_set = self.read_files(train, self._test_files)
        self._test_set = self._test_set or test_set  # one object: its loader is shared
        return train_set, self._test_set


@register_dataset("seq-core50")
class CORe50NewClasses(CORe50):
    """CORe50 by object (NC), 164,866 frames of 50 objects, 9 tasks, 10 and 8 x 5 classes.

    With 128x128 pixels the decoded images take 8.1 GB of disk and up to 1.2 GB of memory per task.
    """

    N_CLASSES_PER_TASK = (10, *[5] * 8)
    N_TASKS = 9

    def list_files(self) -> tuple[FileList, FileList]:
        """Returns the training and the test sessions."""
        return self.sessions(TRAIN_SESSIONS), self.sessions(TEST_SESSIONS)
