"""Datasets in the IDX format of MNIST: the reader, where files are looked for, the download."""

import gzip
import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mammoth_compiled.datasets.arrays import ArrayDataset, fetch
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.datasets.paths import data_dir
from mammoth_compiled.errors import DataError

SPLITS = {"train": "train", "test": "t10k"}


class SequentialIDX(ContinualDataset):
    """What datasets in MNIST's files have in common.

    Attributes:
        RAW: Where torchvision's download puts the files, below the data folder.
        HINT: A further remedy where the data is not to be had.
    """

    RAW: ClassVar[str]
    HINT: ClassVar[str] = ""

    def get_data_loaders(self) -> tuple[ArrayDataset, ArrayDataset]:
        """Returns the whole training and test set.

        Raises:
            DataError: If the files are neither there nor to be had; names the folders searched.
        """
        train = self.read(*self.files("train"))
        test = self.read(*self.files("test"))
        return ArrayDataset(*train, self.TRANSFORM), ArrayDataset(*test, self.TEST_TRANSFORM)

    def files(self, split: str) -> list[Path]:
        """Returns the image and the label file of a split, "train" or "test"."""
        root = data_dir(self.args)
        folders = [*self.folders(root), root / self.RAW]
        files = find_files(folders, stems(split))
        if files is None:
            fetch(self.NAME, lambda: self.download(root), folders, self.HINT)
            files = find_files(folders, stems(split))
        assert files is not None
        return files

    def folders(self, root: Path) -> list[Path]:
        """Returns where else the files may be, first choice first."""
        raise NotImplementedError

    def download(self, root: Path) -> Any:
        """Fetches the files into `root / RAW`."""
        raise NotImplementedError

    @staticmethod
    def read(images: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
        """Returns the images, uint8, and the labels, int64, [N], of two files."""
        raise NotImplementedError


def stems(split: str) -> list[str]:
    """Returns the names of the image and the label file of a split."""
    return [f"{SPLITS[split]}-images-idx3-ubyte", f"{SPLITS[split]}-labels-idx1-ubyte"]


def read_idx(path: Path) -> np.ndarray:
    """Reads a file of bytes in the IDX format of MNIST, gzipped or not.

    Returns:
        uint8 array in the file's shape.

    Raises:
        DataError: If the file is truncated or not of this format.
    """
    try:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rb") as file:
            content = file.read()
        zeros, kind, dims = struct.unpack_from(">HBB", content)
        shape = struct.unpack_from(f">{dims}I", content, 4)
        values = np.frombuffer(content, np.uint8, offset=4 + 4 * dims)
        if zeros or kind != 8 or values.size != np.prod(shape):
            raise ValueError(f"header says shape {shape}, found {values.size} bytes")
    except (OSError, EOFError, struct.error, ValueError) as error:
        raise DataError(f"{path} is not a whole IDX file ({error}): fetch it again") from error
    return values.reshape(shape)


def find_files(folders: list[Path], stems: list[str]) -> list[Path] | None:
    """Returns the files of the first folder that has them all, gzipped or not; else None."""
    for folder in folders:
        files = []
        for stem in stems:
            candidates = [folder / stem, folder / f"{stem}.gz"]
            files += [c for c in candidates if c.is_file()][:1]
        if len(files) == len(stems):
            return files
    return None
