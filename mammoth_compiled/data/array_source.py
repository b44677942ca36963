"""ArraySource: the images of a dataset as one tensor, read by index instead of item by item."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mammoth_compiled.data.equivalence import prove_equivalence
from mammoth_compiled.data.fused import FusedGather, fuse_transform
from mammoth_compiled.data.prefetch import fits_on_device, report_prefetching
from mammoth_compiled.data.transforms import BatchedTransform, CannotBatchError, batch_transform
from mammoth_compiled.kernels.runtime.device import supports_triton


@dataclass(frozen=True)
class ArraySource:
    """The images and labels of a dataset as tensors, with the batched versions of its transforms.

    Attributes:
        dataset_data: The array `data` of the dataset, kept to notice when it is replaced.
        dataset_targets: Its `targets`, likewise.
        dataset_transform: Its `transform`, likewise.
        images: uint8, [N, H, W] or [N, H, W, C], on the device unless `stays_on_host`.
        labels: int64, [N], likewise.
        device: Device of the batches.
        stays_on_host: Whether images and labels stay in host memory because they are too large.
        transform: Batched version of the `transform` of the dataset.
        not_aug_transform: Batched version of its `not_aug_transform`; None if items are pairs.
        fused: Computes both transforms with one kernel; None if it cannot.
        dataset_fields: The arrays that its `extra_return_fields` name, kept like `dataset_data`.
        fields: The same as tensors, [N, ...], where the images are; `gather` appends their rows.
    """

    dataset_data: Any
    dataset_targets: Any
    dataset_transform: Any
    images: torch.Tensor
    labels: torch.Tensor
    device: torch.device
    stays_on_host: bool
    transform: BatchedTransform
    not_aug_transform: BatchedTransform | None
    fused: FusedGather | None = None
    dataset_fields: tuple[Any, ...] = ()
    fields: tuple[torch.Tensor, ...] = ()

    def is_current(self, dataset: Any) -> bool:
        """Returns whether the dataset still has the arrays and the transform of this source."""
        return (
            dataset.data is self.dataset_data
            and dataset.targets is self.dataset_targets
            and dataset.transform is self.dataset_transform
            and [*map(id, extra_fields(dataset))] == [*map(id, self.dataset_fields)]
        )

    def gather(self, index: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns the items with these indices as a batch.

        Args:
            index: int64, [B], on the device of `images`.

        Returns:
            inputs, [B, C, H, W], labels, [B], and, unless items are pairs, not_aug_inputs,
            [B, C, H, W]: what collating the items of the dataset would give; then rows of `fields`.
        """
        if self.fused is not None:
            return self._fused(index)
        rows = (tensor[index].to(self.device) for tensor in self.row_tensors)
        return self.transform_rows(*rows)

    def gather_from(
        self, order: torch.Tensor, position: torch.Tensor, size: int
    ) -> tuple[torch.Tensor, ...]:
        """Returns a batch like `gather` from a position that only the device knows; needs `fused`.

        Args:
            order: Indices of items, int64, [n].
            position: Where in `order` the batch begins, int64, [1].
            size: B.
        """
        return self._fused(order, (position, size))

    def _fused(
        self, index: torch.Tensor, window: tuple[torch.Tensor, int] | None = None
    ) -> tuple[torch.Tensor, ...]:
        assert self.fused is not None
        inputs, not_aug_inputs, (labels, *fields) = self.fused.gather(index, window)
        not_aug = () if not_aug_inputs is None else (not_aug_inputs,)
        return inputs, labels, *not_aug, *fields

    @property
    def row_tensors(self) -> tuple[torch.Tensor, ...]:
        """The tensors whose rows `transform_rows` takes."""
        return self.images, self.labels, *self.fields

    def transform_rows(
        self, images: torch.Tensor, labels: torch.Tensor, *fields: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Returns a batch like `gather` from rows of `row_tensors` on the device."""
        images = channels_first(images)
        inputs = self.transform(images)
        if self.not_aug_transform is None:
            return inputs, labels, *fields
        return inputs, labels, self.not_aug_transform(images), *fields


def extra_fields(dataset: Any) -> tuple[Any, ...]:
    """Returns the arrays that a dataset adds to its items, by name in `extra_return_fields`."""
    return tuple(getattr(dataset, name) for name in getattr(dataset, "extra_return_fields", ()))


def channels_first(images: torch.Tensor) -> torch.Tensor:
    """Returns images, [B, H, W] or [B, H, W, C], as contiguous [B, C, H, W].

    Example:
        >>> import torch
        >>> channels_first(torch.zeros(2, 5, 4, 3)).shape
        torch.Size([2, 3, 5, 4])
    """
    if images.dim() == 3:
        return images.unsqueeze(1)
    return images.permute(0, 3, 1, 2).contiguous()


def array_source(dataset: Any, device: torch.device) -> ArraySource:
    """Returns a source that yields the items of a dataset, if that can be proven on a few items.

    Item i must be `transform` of image i of `data`, `targets[i]` and, unless items are pairs, image
    i without augmentation. See `mammoth_compiled.data.equivalence`.

    Args:
        dataset: Has `data`, `targets`, `transform` and, for triples, `not_aug_transform`.
        device: Device of the batches.

    Raises:
        CannotBatchError: If it cannot be proven; gives the reason.
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
        raise CannotBatchError(f"transform {error} has no batched version") from None
    except TypeError:
        raise CannotBatchError("its transform is not hashable") from None
    labels = torch.as_tensor(np.asarray(targets), dtype=torch.int64)
    if len(labels) != len(data) or len(dataset) != len(data):
        raise CannotBatchError("the lengths of data, targets and the dataset differ")
    dataset_fields = extra_fields(dataset)
    fields = tuple(map(torch.as_tensor, dataset_fields))
    if any(len(field) != len(data) for field in fields):
        raise CannotBatchError("its extra_return_fields do not have one row per image")
    # In host memory the tensor shares the memory of the array, so changes in place are seen.
    images = torch.from_numpy(data)
    not_aug_transform = prove_equivalence(dataset, images, labels)
    stays_on_host = not fits_on_device(images.nbytes, device)
    if stays_on_host:
        report_prefetching(device)
    else:
        images, labels, *moved = (t.to(device) for t in (images, labels, *fields))
        fields = tuple(moved)
    fused = None
    if supports_triton(device) and not stays_on_host:
        parameters = fuse_transform(dataset.transform)
        if parameters is not None:
            with_not_aug = not_aug_transform is not None
            fused = FusedGather(images, parameters, with_not_aug, (labels, *fields))
    return ArraySource(
        dataset_data=data,
        dataset_targets=targets,
        dataset_transform=dataset.transform,
        images=images,
        labels=labels,
        device=device,
        stays_on_host=stays_on_host,
        transform=transform,
        not_aug_transform=not_aug_transform,
        fused=fused,
        dataset_fields=dataset_fields,
        fields=fields,
    )
