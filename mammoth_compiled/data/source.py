"""Finds out whether a dataset's images can be taken from its array instead of one by one."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mammoth_compiled.data.fused import FusedBatches, recipe
from mammoth_compiled.data.stream import fits, say_streamed
from mammoth_compiled.data.transforms import Batched, CannotBatchError, batch_transform, to_float
from mammoth_compiled.kernels.launch import supports

# So many that a change made to every tenth image at random escapes once in 850 times.
PROBES = 64


@dataclass(frozen=True)
class ArraySource:
    """A dataset's images and labels as tensors, and the batched code of its transforms.

    Attributes:
        data: The dataset's own array, to notice when it is replaced.
        targets: The dataset's own labels, likewise.
        own_transform: The dataset's own `transform`, likewise.
        images: uint8, [N, H, W] or [N, H, W, C], on the device unless `streamed`.
        labels: int64, [N], likewise.
        device: Where batches are wanted.
        streamed: Whether images and labels stay in host memory, as they are too large.
        transform: Stands for the dataset's `transform`.
        not_aug: Stands for its `not_aug_transform`; None where items have no third part.
        fused: Does the work of both by one kernel; None where it cannot.
    """

    data: Any
    targets: Any
    own_transform: Any
    images: torch.Tensor
    labels: torch.Tensor
    device: torch.device
    streamed: bool
    transform: Batched
    not_aug: Batched | None
    fused: FusedBatches | None = None

    def is_current(self, dataset: Any) -> bool:
        """Returns whether the dataset still holds the arrays and transform this was made from."""
        return (
            dataset.data is self.data
            and dataset.targets is self.targets
            and dataset.transform is self.own_transform
        )

    def batch(self, index: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns what the dataset's items of these numbers, collated, would be.

        Args:
            index: Item numbers, int64, [B], where `images` are.

        Returns:
            inputs [B, C, H, W], labels [B] and, where items have it, not_aug_inputs [B, C, H, W].
        """
        if self.fused is not None:
            inputs, plain = self.fused.batch(index)
            labels = self.labels[index]
            return (inputs, labels) if plain is None else (inputs, labels, plain)
        images, labels = self.images[index], self.labels[index]
        return self.finish(images.to(self.device), labels.to(self.device))

    def finish(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns the same from rows of `images` and `labels` on the device."""
        images = channels_first(images)
        inputs = self.transform(images)
        return (inputs, labels) if self.not_aug is None else (inputs, labels, self.not_aug(images))


def channels_first(images: torch.Tensor) -> torch.Tensor:
    """Returns [B, H, W] or [B, H, W, C] as contiguous [B, C, H, W]."""
    if images.dim() == 3:
        return images.unsqueeze(1)
    return images.permute(0, 3, 1, 2).contiguous()


def array_source(dataset: Any, device: torch.device) -> ArraySource:
    """Proves on a few items that batched code gives what the dataset's `__getitem__` gives.

    `__getitem__(i)` must hand image i of `data` to `transform` once, and return its result,
    `targets[i]` and (if anything) the not-augmented image.

    Args:
        dataset: Has `data`, `targets`, `transform` and maybe `not_aug_transform`.
        device: Where the tensors are wanted.

    Raises:
        CannotBatchError: If it cannot be proven; says why.
    """
    data, targets = getattr(dataset, "data", None), getattr(dataset, "targets", None)
    if not (isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.ndim in (3, 4)):
        raise CannotBatchError("its `data` is not a uint8 array of images")
    if data.ndim == 4 and data.shape[3] not in (1, 3):
        raise CannotBatchError(f"its images have shape {data.shape[1:]}, not [H, W, 3]")
    if getattr(dataset, "target_transform", None) is not None:
        raise CannotBatchError("it has a target_transform")
    if not hasattr(dataset, "transform"):
        raise CannotBatchError("it has no attribute `transform`")
    try:
        transform = batch_transform(dataset.transform)
    except CannotBatchError as error:
        raise CannotBatchError(f"transform {error} has no batched code yet") from None
    except TypeError:
        raise CannotBatchError("its transform cannot be hashed") from None
    labels = torch.as_tensor(np.asarray(targets), dtype=torch.int64)
    if len(labels) != len(data) or len(dataset) != len(data):
        raise CannotBatchError("the lengths of data, targets and the dataset differ")
    not_aug = _prove(dataset, data, labels)
    # In host memory the tensor shares the array's, so changes in place are seen.
    images = torch.from_numpy(data)
    streamed = not fits(images.nbytes, device)
    if streamed:
        say_streamed(device)
    else:
        images, labels = images.to(device), labels.to(device)
    own, fused = dataset.transform, None
    if supports(device) and not streamed and (numbers := recipe(own)) is not None:
        fused = FusedBatches(images, numbers, plain=not_aug is not None)
    return ArraySource(
        data, targets, own, images, labels, device, streamed, transform, not_aug, fused
    )


def _prove(dataset: Any, data: np.ndarray, labels: torch.Tensor) -> Batched | None:
    """Returns the batched `not_aug_transform`, None where items have no third part."""
    if not len(data):
        return batch_transform(dataset.not_aug_transform)
    probe = copy.copy(dataset)
    marker = object()
    seen: list[Any] = []
    probe.transform = _recorder(seen, marker)
    lengths = set()
    for i in sorted({int(i) for i in np.linspace(0, len(data) - 1, PROBES)}):
        seen.clear()
        try:
            item = probe[i]
        except Exception as error:  # the dataset is the user's: it may raise anything
            raise CannotBatchError(f"item {i} cannot be taken apart: {error}") from None
        if not (isinstance(item, (tuple, list)) and len(item) in (2, 3)):
            raise CannotBatchError("its items are not (image, label[, not augmented image])")
        lengths.add(len(item))
        image = np.asarray(seen[0]) if len(seen) == 1 else None
        if item[0] is not marker or image is None or not _same_image(image, data[i]):
            raise CannotBatchError("its __getitem__ does more to an image than `transform`")
        if int(item[1]) != int(labels[i]):
            raise CannotBatchError("its __getitem__ changes the labels")
        if len(item) == 3:
            images = channels_first(torch.from_numpy(data[i : i + 1]))
            # Anything but ToTensor fails here and goes image by image.
            if not torch.is_tensor(item[2]) or not torch.equal(item[2], to_float(images)[0]):
                raise CannotBatchError("its not-augmented images are not ToTensor of `data`")
    if len(lengths) != 1:
        raise CannotBatchError("its items differ in length")
    return Batched((to_float,)) if lengths == {3} else None


def _recorder(seen: list[Any], marker: object) -> Callable[[Any], object]:
    def record(image: Any) -> object:
        seen.append(image)
        return marker

    return record


def _same_image(image: np.ndarray, expected: np.ndarray) -> bool:
    if image.dtype != expected.dtype:
        return False
    if expected.ndim == 3 and expected.shape[2] == 1 and image.ndim == 2:
        expected = expected[:, :, 0]
    return image.shape == expected.shape and bool((image == expected).all())
