"""Proves on a few items that a dataset's `__getitem__` only applies its transform to its array.

The transform is replaced by a function that records the image and returns a marker. Item i must
then be the marker, `targets[i]` and, unless items are pairs, ToTensor of `data[i]`, and `data[i]`
must be the only image recorded.
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from mammoth_compiled.data.items import as_class_id
from mammoth_compiled.data.transforms import BatchedTransform, CannotBatchError, batch_transform
from mammoth_compiled.data.transforms.tensors import to_float

# With 64 items, a random change to every tenth image goes unnoticed once in 850 times.
NUM_PROBES = 64


def prove_equivalence(
    dataset: Any, images: torch.Tensor, labels: torch.Tensor
) -> BatchedTransform | None:
    """Checks evenly spaced items of a dataset against its array.

    Args:
        dataset: The dataset; it is not modified.
        images: Its `data`, uint8, [N, H, W] or [N, H, W, C].
        labels: Its `targets`, int64, [N].

    Returns:
        The batched version of its `not_aug_transform`, None if items are pairs.

    Raises:
        CannotBatchError: If an item differs; gives the reason.
    """
    if not len(images):
        return batch_transform(dataset.not_aug_transform)
    probe = copy.copy(dataset)
    marker = object()
    recorded: list[Any] = []
    probe.transform = _recorder(recorded, marker)
    lengths = set()
    for i in sorted({int(i) for i in np.linspace(0, len(images) - 1, NUM_PROBES)}):
        recorded.clear()
        try:
            item = probe[i]
        except Exception as error:  # user code may raise anything
            raise CannotBatchError(
                f"item {i} cannot be read with another transform: {error}"
            ) from None
        if not (isinstance(item, (tuple, list)) and len(item) in (2, 3)):
            raise CannotBatchError("its items are not (image, label[, not augmented image])")
        lengths.add(len(item))
        image = np.asarray(recorded[0]) if len(recorded) == 1 else None
        if item[0] is not marker or image is None or not _is_same(image, images[i].numpy()):
            raise CannotBatchError("its `__getitem__` does more to an image than `transform`")
        if as_class_id(item[1]) != int(labels[i]):
            raise CannotBatchError("its `__getitem__` changes the labels")
        if len(item) == 3 and not _is_to_tensor(item[2], images[i]):
            raise CannotBatchError("its images without augmentation are not ToTensor of `data`")
    if len(lengths) != 1:
        raise CannotBatchError("its items differ in length")
    return BatchedTransform((to_float,)) if lengths == {3} else None


def _recorder(recorded: list[Any], marker: object) -> Callable[[Any], object]:
    def record(image: Any) -> object:
        recorded.append(image)
        return marker

    return record


def _is_same(image: np.ndarray, expected: np.ndarray) -> bool:
    if image.dtype != expected.dtype:
        return False
    if expected.ndim == 3 and expected.shape[2] == 1 and image.ndim == 2:
        expected = expected[:, :, 0]
    return image.shape == expected.shape and bool((image == expected).all())


def _is_to_tensor(result: Any, image: torch.Tensor) -> bool:
    """Returns whether a result is ToTensor of an image, uint8, [H, W] or [H, W, C]."""
    channels_first = image[None] if image.dim() == 2 else image.permute(2, 0, 1)
    return torch.is_tensor(result) and torch.equal(result, to_float(channels_first))
