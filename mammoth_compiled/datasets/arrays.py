"""Images held in an array, and the readers of the files they come in."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mammoth_compiled.datasets.base import MammothDataset
from mammoth_compiled.errors import DataError


class ArrayDataset(MammothDataset):
    """A split held in memory.

    Args:
        data: Images, uint8, [N, H, W] or [N, H, W, 3].
        targets: Class ids, [N].
        transform: torchvision transform of a PIL image.
    """

    def __init__(self, data: np.ndarray, targets: np.ndarray, transform: Any) -> None:
        self.data = data
        self.targets = targets
        self.transform = transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int, Any]:
        """Returns (transformed image, label, image as float tensor in [0, 1])."""
        image = Image.fromarray(self.data[index])
        return self.transform(image), int(self.targets[index]), self.not_aug_transform(image)


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


def find_idx_files(folders: list[Path], stems: list[str]) -> list[Path] | None:
    """Returns the files of the first folder that has them all, gzipped or not; else None."""
    for folder in folders:
        files = []
        for stem in stems:
            candidates = [folder / stem, folder / f"{stem}.gz"]
            files += [c for c in candidates if c.is_file()][:1]
        if len(files) == len(stems):
            return files
    return None


def fetch(name: str, download: Callable[[], Any], places: list[Path], hint: str = "") -> Any:
    """Runs a download and says what to do where it fails.

    Args:
        name: The dataset's name.
        download: Fetches the data, or reads it where it is.
        places: Folders that were searched before.
        hint: A further remedy.

    Raises:
        DataError: If the download fails.
    """
    try:
        return download()
    except Exception as error:  # torchvision passes on whatever the network stack raises
        searched = ", ".join(str(place) for place in places)
        reason = " ".join(str(error).split())
        message = (
            f"{name}: the data is not in {searched}, and the download failed "
            f"({type(error).__name__}: {reason}). Put the files there or give --data_dir DIR. "
            f"{hint}"
        )
        raise DataError(message.rstrip()) from error
