"""Checks what a user's dataset class declares and loads, before it is split into tasks."""

import copy
import math
from typing import Any

import numpy as np
import torch

from mammoth_compiled.data import TaskLoader
from mammoth_compiled.data.items import as_class_id
from mammoth_compiled.device import random_state, set_random_state
from mammoth_compiled.errors import ConfigError, DataError, shorten


def check_attributes(kind: Any) -> None:
    """Checks the class attributes of a `ContinualDataset`.

    Raises:
        ConfigError: If one has an invalid value, or two contradict each other.
    """
    name = kind.__name__
    for attribute in ("N_TASKS", "N_CLASSES_PER_TASK"):
        value: Any = getattr(kind, attribute, None)
        values = value if attribute == "N_CLASSES_PER_TASK" and _is_list(value) else [value]
        if not all(_is_count(v) for v in values):
            raise ConfigError(f"{name}.{attribute} must be an integer >= 1, got {shorten(value)}")
    per_task = kind.N_CLASSES_PER_TASK
    if _is_list(per_task) and len(per_task) != kind.N_TASKS:
        raise ConfigError(
            f"{name}.N_CLASSES_PER_TASK has {len(per_task)} entries for {kind.N_TASKS} tasks"
        )
    size = getattr(kind, "SIZE", (1, 1))
    if not (_is_list(size) and len(size) == 2 and all(_is_count(s) for s in size)):
        raise ConfigError(
            f"{name}.SIZE must be (height, width) in pixels, as in (32, 32), got {shorten(size)}"
        )
    mean: Any = getattr(kind, "MEAN", None)
    std: Any = getattr(kind, "STD", None)
    for attribute, value in (("MEAN", mean), ("STD", std)):
        if hasattr(kind, attribute) and not (_is_list(value) and all(_is_finite(v) for v in value)):
            raise ConfigError(
                f"{name}.{attribute} must have one finite number per channel, got {shorten(value)}"
            )
    if std is not None and any(v <= 0 for v in std):
        raise ConfigError(f"{name}.STD must be > 0 for every channel, got {shorten(std)}")
    if mean is not None and std is not None and len(mean) != len(std):
        raise ConfigError(f"{name}.MEAN has {len(mean)} channels, but STD has {len(std)}")


def check_classes(dataset: Any, end: int) -> None:
    """Checks the number of classes.

    Args:
        dataset: A `ContinualDataset` with `N_CLASSES`.
        end: Number of classes of all tasks.

    Raises:
        ConfigError: If the tasks have more classes than there are, or names are missing.
    """
    name, num_classes = type(dataset).__name__, dataset.N_CLASSES
    if not _is_count(num_classes):
        raise ConfigError(f"{name}.N_CLASSES must be an integer >= 1, got {shorten(num_classes)}")
    if num_classes < end:
        raise ConfigError(
            f"{name}.N_CLASSES is {num_classes}, but its {dataset.N_TASKS} tasks have {end} "
            "classes: correct N_CLASSES, N_TASKS or N_CLASSES_PER_TASK"
        )
    if dataset.CLASS_NAMES and len(dataset.CLASS_NAMES) != num_classes:
        raise ConfigError(
            f"{name}.CLASS_NAMES has {len(dataset.CLASS_NAMES)} names for {num_classes} classes"
        )


def checked_split(split: Any, where: str, num_classes: int, described: str) -> Any:
    """Checks the labels of a split against the classes, and its images against the labels.

    Args:
        split: The training or test set of a user.
        where: What it is, for messages: "seq-x: the test set".
        num_classes: Number of classes; labels are 0 to `num_classes - 1`.
        described: Where that number comes from, for messages.

    Returns:
        The split; a copy with integer `targets`, [N], if they have another shape or type.

    Raises:
        DataError: If something is missing, a label is not a class id, or the lengths differ.
    """
    for attribute in ("data", "targets"):
        if not hasattr(split, attribute):
            raise DataError(f"{where} ({type(split).__name__}) has no attribute `{attribute}`")
    targets = class_ids(split.targets, where)
    try:
        num_images, num_items = len(split.data), len(split)
    except TypeError as error:
        raise DataError(f"{where}: {error}; `data` holds one image per label") from error
    if num_images != len(targets) or num_items != len(targets):
        raise DataError(
            f"{where} has {num_images} images in `data`, {len(targets)} labels in `targets` and "
            f"the length {num_items}; they must be equal"
        )
    if not len(targets):
        raise DataError(f"{where} is empty")
    outside = (targets < 0) | (targets >= num_classes)
    if outside.any():
        ids, counts = np.unique(targets[outside], return_counts=True)
        found = ", ".join(
            f"{i} ({n} time{'s' if n > 1 else ''})"
            for i, n in list(zip(ids, counts, strict=True))[:5]
        )
        more = f" and {len(ids) - 5} others" if len(ids) > 5 else ""
        raise DataError(
            f"{where} has {outside.sum()} of {len(targets)} labels outside the classes 0 to "
            f"{num_classes - 1} ({described}): {found}{more}, the first at item "
            f"{int(outside.argmax())}. Class ids start at 0; correct the labels or the number of "
            "classes"
        )
    if not _are_plain(split.targets):
        split = copy.copy(split)
        split.targets = targets
    return split


def _are_plain(targets: Any) -> bool:
    """Returns whether labels are integers of shape [N] already."""
    if isinstance(targets, torch.Tensor):
        return targets.ndim == 1 and targets.is_cpu and not targets.is_floating_point()
    labels = np.asarray(targets)
    return labels.ndim == 1 and labels.dtype.kind in "iu"


def class_ids(targets: Any, where: str) -> np.ndarray:
    """Returns labels as integers, [N], from any array, tensor or list of shape [N] or [N, 1].

    Raises:
        DataError: If they have another shape, or one is not an integer; names the first.
    """
    advice = "give integer class ids from 0"
    if isinstance(targets, torch.Tensor):
        targets = targets.detach().cpu()
    try:
        labels = np.asarray(targets)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{where}: `targets` is not a list of labels ({error}); {advice}"
        ) from error
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise DataError(
            f"{where}: `targets` has shape {list(labels.shape)}, not [N]; {advice}, "
            "not one-hot rows"
        )
    if labels.dtype.kind in "iu":
        return labels
    for i, label in enumerate(labels):
        if as_class_id(label) is None:
            raise DataError(
                f"{where}: the label of item {i} is {shorten(_plain(label))}, of type "
                f"{type(label).__name__}; {advice}"
            )
    return np.array([as_class_id(label) for label in labels], dtype=np.int64)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _is_count(value: Any) -> bool:
    is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return is_integer and bool(value >= 1)


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and math.isfinite(value)


def check_first_item(
    loader: TaskLoader, class_name: str, declared: tuple[int, ...] | None, has_mean: bool
) -> None:
    """Checks that images have the shape for which the backbone is built.

    Args:
        loader: Loads the images; its item 0 is read, the random state is restored.
        class_name: Name of the dataset class, for the message.
        declared: The shape that it declares, (C, H, W); None if it declares none.
        has_mean: Whether it declares `MEAN`, which gives the number of channels.

    Raises:
        DataError: If they have another.
    """
    before = random_state()
    shape = tuple(loader.gather(torch.tensor([0]))[0].shape[1:])
    set_random_state(before)
    if declared is None or shape == declared:
        return
    channels = (
        ""
        if has_mean
        else ", where images without MEAN have the channels of the first training image"
    )
    raise DataError(
        f"{loader.name}: item 0 has shape {list(shape)} after its transform, but {class_name} "
        f"declares {list(declared)} by SIZE and MEAN{channels}. Set SIZE to (height, width), and "
        "MEAN and STD to one number per channel"
    )
