"""Tiny ImageNet in 10 tasks of 20 classes.

Source: Stanford CS231N, "Tiny ImageNet Visual Recognition Challenge", 2015; the task sequence and
normalization of Buzzega et al. 2020, arXiv 2004.07211.
"""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mammoth_compiled.datasets.download import Archive, data_dir
from mammoth_compiled.datasets.image_files import (
    FileList,
    SequentialImageFiles,
    small_image_transforms,
)
from mammoth_compiled.datasets.text_tables import read_table
from mammoth_compiled.registry import register_dataset

ARCHIVE = Archive(
    "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    "90528d7ca1a48142e341f4ef8d21d0de",
    "tiny-imagenet-200",
)


@register_dataset("seq-tinyimg")
class SequentialTinyImageNet(SequentialImageFiles):
    """Tiny ImageNet, 100,000 + 10,000 images, 10 tasks x 20 classes, 64x64x3.

    The validation set of the archive is the test set. Decoded, the images take 1.4 GB of disk.
    """

    N_CLASSES_PER_TASK = 20
    N_TASKS = 10
    SIZE = (64, 64)
    MEAN = (0.4802, 0.4480, 0.3975)
    STD = (0.2770, 0.2691, 0.2821)
    TRANSFORM, TEST_TRANSFORM = small_image_transforms(64, MEAN, STD)
    DEFAULTS: ClassVar[dict[str, Any]] = {"lr": 0.03, "batch_size": 32, "n_epochs": 100}

    def list_files(self) -> tuple[FileList, FileList]:
        """Returns the files of the archive; classes are in the order of their WordNet ids."""
        root = ARCHIVE.find(self.NAME, data_dir(self.config))
        ids = sorted(row[0] for row in read_table(root / "wnids.txt", 1))
        words = {row[0]: row[1] for row in read_table(root / "words.txt", 2, "\t")}
        # Some names occur twice among the classes of ImageNet.
        self.CLASS_NAMES = tuple(f"{words.get(i, i).split(',')[0]} ({i})" for i in ids)
        return _training_files(root, ids), _test_files(root, ids)


def _training_files(root: Path, ids: list[str]) -> FileList:
    files = [
        sorted(f"train/{i}/images/{path.name}" for path in (root / "train" / i).rglob("*.JPEG"))
        for i in ids
    ]
    targets = np.repeat(np.arange(len(ids)), [len(names) for names in files])
    return FileList(root, [name for names in files for name in names], targets)


def _test_files(root: Path, ids: list[str]) -> FileList:
    rows = read_table(root / "val" / "val_annotations.txt", 2)
    class_of = {i: k for k, i in enumerate(ids)}
    return FileList(
        root,
        [f"val/images/{row[0]}" for row in rows],
        np.array([class_of[row[1]] for row in rows]),
    )
