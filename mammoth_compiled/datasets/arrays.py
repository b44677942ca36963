"""ArrayDataset: a split whose images are held in memory."""

from typing import Any

import numpy as np
from PIL import Image

from mammoth_compiled.datasets.base import MammothDataset


class ArrayDataset(MammothDataset):
    """A split held in memory.

    Args:
        data: Images, uint8, [N, H, W] or [N, H, W, 3].
        targets: Class ids, [N].
        transform: torchvision transform of a PIL image.

    Example:
        >>> import numpy as np
        >>> from torchvision import transforms
        >>> split = ArrayDataset(np.zeros((2, 8, 8), np.uint8), np.arange(2), transforms.ToTensor())
        >>> image, label, not_aug_image = split[1]
        >>> image.shape, label
        (torch.Size([1, 8, 8]), 1)
    """

    def __init__(self, data: np.ndarray, targets: np.ndarray, transform: Any) -> None:
        self.data = data
        self.targets = targets
        self.transform = transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int, Any]:
        """Returns (transformed image, label, image as a float tensor in [0, 1])."""
        image = Image.fromarray(self.data[index])
        return self.transform(image), int(self.targets[index]), self.not_aug_transform(image)
