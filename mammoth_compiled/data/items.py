"""CheckedItems: the items of a dataset, each checked as it is read."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from mammoth_compiled.errors import DataError, shorten


class CheckedItems(Dataset):
    """Reads items of a user's dataset and names the first that cannot be used.

    An invalid item is returned as a `DataError`, not raised, because worker processes would wrap
    it in their traceback; `collate` passes it on.

    Args:
        dataset: The dataset of the user.
        name: What it is, for messages.
        num_classes: Labels must be below it; None if the number of classes is unknown.
    """

    def __init__(self, dataset: Any, name: str, num_classes: int | None) -> None:
        self.dataset = dataset
        self.name = name
        self.num_classes = num_classes

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[int, Any] | DataError:
        """Returns the index and the item, or an error."""
        try:
            item = self.dataset[index]
            names = getattr(self.dataset, "extra_return_fields", ())
            if names and len(item) <= 3:  # longer items contain the fields already
                item = (*item, *(torch.as_tensor(getattr(self.dataset, n)[index]) for n in names))
        except DataError as error:
            return error
        except Exception as error:  # of user code, whose traceback stays
            error.add_note(f"while reading item {index} of {self.name}")
            raise
        problem = self._problem(item)
        return DataError(f"{self.name}: item {index} {problem}") if problem else (index, item)

    def _problem(self, item: Any) -> str:
        if not (isinstance(item, (tuple, list)) and len(item) >= 2):
            return f"is a {type(item).__name__}; return (image, label, image without augmentation)"
        image, label, *others = item
        for value, what in [(image, "image"), *((other, "image") for other in others)]:
            if not isinstance(value, (torch.Tensor, np.ndarray)):
                return (
                    f"has an {what} of type {type(value).__name__}; let the transform end with "
                    "transforms.ToTensor()"
                )
            tensor = torch.as_tensor(value)
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                return f"has an {what} with NaN or infinite values; correct `data` or the transform"
        class_id = as_class_id(label)
        if class_id is None:
            return f"has the label {shorten(label)}; give an integer class id"
        if self.num_classes is not None and not 0 <= class_id < self.num_classes:
            return f"has the label {class_id}; valid class ids: 0 to {self.num_classes - 1}"
        return ""

    def collate(self, items: Sequence[Any]) -> Any:
        """Returns the items as a batch of tensors, or the error of the first invalid item."""
        for item in items:
            if isinstance(item, DataError):
                return item
        first_index, first = items[0]
        for index, item in items:
            if len(item) != len(first):
                return DataError(
                    f"{self.name}: item {index} has {len(item)} parts, item {first_index} has "
                    f"{len(first)}"
                )
            for part, value in enumerate(first):
                if part != 1 and item[part].shape != value.shape:
                    return DataError(
                        f"{self.name}: the image of item {index} has shape "
                        f"{list(item[part].shape)}, that of item {first_index} has "
                        f"{list(value.shape)}; add transforms.Resize((height, width)) to the "
                        "transform and to not_aug_transform"
                    )
        batch = [list(item) for _, item in items]
        for item in batch:
            item[1] = as_class_id(item[1])
        return default_collate(batch)


def as_class_id(label: Any) -> int | None:
    """Returns a label as an integer, None if it is not one.

    Args:
        label: A number, or an array or tensor with one element.
    """
    value: Any = label
    if isinstance(label, (torch.Tensor, np.ndarray)):
        if np.prod(label.shape) != 1:
            return None
        value = label.item()
    if isinstance(value, (float, np.floating)):
        number = float(value)
        return int(number) if number.is_integer() and abs(number) < 2**63 else None
    if not isinstance(value, (int, np.integer, np.bool_)):
        return None
    class_id = int(value)
    return class_id if abs(class_id) < 2**63 else None
