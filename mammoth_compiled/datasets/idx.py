"""Datasets in the IDX format of MNIST: finding, downloading and reading the files."""

import gzip
import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mammoth_compiled.datasets.arrays import ArrayDataset
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.datasets.download import data_dir, load_or_download
from mammoth_compiled.errors import DataError

SPLITS = {"train": "train", "test": "t10k"}


class SequentialIDX(ContinualDataset):
    """Base of datasets that are stored in the four files of MNIST.

    Attributes:
        RAW: Folder below the data folder into which torchvision downloads the files.
        HINT: A further remedy if the files are missing and cannot be downloaded.
    """

    SHARES_IMAGES = True
    RAW: ClassVar[str]
    HINT: ClassVar[str] = ""

    def get_data_loaders(self) -> tuple[ArrayDataset, ArrayDataset]:
        """Returns the complete training and test sets, downloaded if the files are missing.

        Raises:
            DataError: If the files are damaged, or missing and the download fails.
        """
        train = self.read(*self.files("train"))
        test = self.read(*self.files("test"))
        return ArrayDataset(*train, self.TRANSFORM), ArrayDataset(*test, self.TEST_TRANSFORM)

    def files(self, split: str) -> list[Path]:
        """Returns the image and label files of a split, "train" or "test"."""
        root = data_dir(self.config)
        folders = [*self.folders(root), root / self.RAW]
        files = find_files(folders, file_stems(split))
        if files is None:
            load_or_download(self.NAME, lambda: self.download(root), folders, self.HINT)
            files = find_files(folders, file_stems(split))
        assert files is not None
        return files

    def folders(self, root: Path) -> list[Path]:
        """Returns the folders to search before `root / RAW`, in order."""
        raise NotImplementedError

    def download(self, root: Path) -> Any:
        """Downloads the files into `root / RAW`."""
        raise NotImplementedError

    @staticmethod
    def read(images: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
        """Returns the images, uint8, [N, H, W] or [N, H, W, 3], and the labels, int64, [N]."""
        raise NotImplementedError


def file_stems(split: str) -> list[str]:
    """Returns the names of the image and label files of a split, without a suffix.

    Example:
        >>> file_stems("test")
        ['t10k-images-idx3-ubyte', 't10k-labels-idx1-ubyte']
    """
    return [f"{SPLITS[split]}-images-idx3-ubyte", f"{SPLITS[split]}-labels-idx1-ubyte"]


def read_idx(path: Path) -> np.ndarray:
    """Reads a file of bytes in the IDX format.

    Args:
        path: The file, gzipped if its name ends in ".gz".

    Returns:
        uint8 array of the shape in the header.

    Raises:
        DataError: If the file is truncated or not in this format.

    Source:
        LeCun, Cortes and Burges, "The MNIST database of handwritten digits", file format.
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
        raise DataError(
            f"{path} is not a complete IDX file ({error}): download it again"
        ) from error
    return values.reshape(shape)


def find_files(folders: list[Path], stems: list[str]) -> list[Path] | None:
    """Returns the files of the first folder that has all of them, gzipped or not; else None."""
    for folder in folders:
        files = []
        for stem in stems:
            candidates = [folder / stem, folder / f"{stem}.gz"]
            files += [c for c in candidates if c.is_file()][:1]
        if len(files) == len(stems):
            return files
    return None
