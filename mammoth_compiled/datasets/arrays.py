"""Images held in an array, and the message where they cannot be had."""

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
