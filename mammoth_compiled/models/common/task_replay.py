"""Moves samples between a replay buffer and the training set of a task, as Mammoth's helpers do."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from mammoth_compiled.data import TaskLoader, apply_transform
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.errors import DataError
from mammoth_compiled.models.common.features import images_of_task


def icarl_replay(self: Any, dataset: ContinualDataset, val_set_split: float = 0) -> None:
    """Adds the samples of `self.buffer` to the training set of the task, from the second task on.

    Args:
        self: The model.
        dataset: The dataset; its training set holds its images in memory.
        val_set_split: Share of the samples that goes into a validation set instead, together with
            as many images of the task: `self.val_loader`.
    """
    if self.current_task == 0:
        return
    split = dataset.train_loader.dataset
    stored = len(self.buffer)
    images = _as_bytes(self.buffer.examples[:stored], split.data)
    labels = np.asarray(self.buffer.labels[:stored].cpu())
    data, targets = np.asarray(split.data), np.asarray(split.targets)
    held_out = np.asarray(torch.rand(stored) < val_set_split)
    of_task = np.zeros(len(targets), dtype=bool)
    of_task[np.asarray(torch.randperm(len(targets)))[: held_out.sum()]] = True
    if val_set_split > 0:
        self.val_dataset = copy.copy(split)
        self.val_dataset.data = np.concatenate((data[of_task], images[held_out]))
        self.val_dataset.targets = np.concatenate((targets[of_task], labels[held_out]))
        batch_size = dataset.train_loader.batch_size
        self.val_loader = TaskLoader(self.val_dataset, batch_size, True, self.device)
    split.data = np.concatenate((data[~of_task], images[~held_out]))
    split.targets = np.concatenate((targets[~of_task], labels[~held_out]))


def _as_bytes(examples: torch.Tensor, like: Any) -> np.ndarray:
    """Returns images in [0, 1], [M, C, H, W], in the layout of a training set's `data`."""
    if not (isinstance(like, np.ndarray) and like.dtype == np.uint8 and like.ndim in (3, 4)):
        raise DataError("icarl_replay needs a training set whose `data` is a uint8 array of images")
    images = (examples.cpu() * 255).round().to(torch.uint8)
    return np.asarray(images[:, 0] if like.ndim == 3 else images.permute(0, 2, 3, 1))


@torch.no_grad()
def fill_buffer(
    buffer: Any,
    dataset: ContinualDataset,
    t_idx: int,
    net: Any = None,
    use_herding: bool = False,
    required_attributes: Sequence[str] | None = None,
    normalize_features: bool = False,
    extend_equalize_buffer: bool = False,
) -> None:
    """Divides a buffer among all classes seen and fills the shares of the current task.

    Each class of an earlier task keeps its first samples. Samples that `icarl_replay` added to the
    training set are removed from it.

    Args:
        buffer: The buffer.
        dataset: The dataset, after the epochs of a task.
        t_idx: Index of the task, from 0.
        net: The backbone; needed for herding and for logits.
        use_herding: True selects by herding (Rebuffi et al. 2017, algorithm 4), False randomly.
        required_attributes: Attributes to store; None stores examples and labels. Logits are
            stored after a sigmoid, as Mammoth does.
        normalize_features: Whether features are normalized before herding.
        extend_equalize_buffer: True enlarges the buffer until all shares are equal.
    """
    names = list(required_attributes or ("examples", "labels"))
    past, seen = dataset.get_offsets(t_idx)
    split = dataset.train_loader.dataset
    is_new = np.asarray(split.targets) >= past
    split.data, split.targets = split.data[is_new], split.targets[is_new]
    buffer.buffer_size = dataset.args.buffer_size
    share = buffer.buffer_size // seen
    if extend_equalize_buffer:
        share = -(-dataset.args.buffer_size // seen)
        buffer.buffer_size = share * seen
    columns = _shrunk(buffer, names, share) if t_idx > 0 and not buffer.is_empty() else []
    columns += _selected(dataset, t_idx, net, use_herding, normalize_features, names, share)
    buffer.empty()
    for rows in columns:
        buffer.add_data(**{name: rows[name].to(buffer.device) for name in names})


def _shrunk(buffer: Any, names: Sequence[str], share: int) -> list[dict[str, torch.Tensor]]:
    """Returns the first samples of each class in the buffer."""
    stored = dict(zip(buffer.read_attributes, buffer.get_all_data(), strict=True))
    rows = [(stored["labels"] == k).nonzero()[:share, 0] for k in stored["labels"].unique()]
    return [{name: stored[name][index] for name in names} for index in rows]


def _selected(
    dataset: ContinualDataset,
    t_idx: int,
    net: Any,
    use_herding: bool,
    normalize_features: bool,
    names: Sequence[str],
    share: int,
) -> list[dict[str, torch.Tensor]]:
    """Returns the selected samples of each class of the current task."""
    normalize = dataset.get_normalization_transform() if hasattr(dataset, "MEAN") else None
    parts: list[tuple[torch.Tensor, ...]] = []
    was_training = net.training if net is not None else False
    if net is not None:
        net.eval()
    for images, labels in images_of_task(dataset):
        if net is None:
            parts.append((images, labels))
        else:
            logits, features = net(apply_transform(images, normalize), returnt="both")
            parts.append((images, labels, torch.sigmoid(logits), features))
    if net is not None:
        net.train(was_training)
    images, labels, *outputs = (torch.cat(column) for column in zip(*parts, strict=True))
    columns = {"examples": images, "labels": labels, "task_labels": torch.full_like(labels, t_idx)}
    if outputs:
        columns["logits"] = outputs[0]
    selected = []
    for k in labels.unique():
        own = (labels == k).nonzero()[:, 0]
        if use_herding:
            features = outputs[1][own]
            order = herd(F.normalize(features) if normalize_features else features, share)
        else:
            order = torch.randperm(len(own))[:share].to(own.device)
        selected.append({name: columns[name][own[order]] for name in names})
    return selected


def herd(features: torch.Tensor, count: int) -> torch.Tensor:
    """Selects samples so that the mean of the selected ones stays near the mean of all.

    Args:
        features: [n, F].
        count: Number of samples to select, at most n.

    Returns:
        Their indices in the order of selection, int64.

    Example:
        >>> import torch
        >>> herd(torch.tensor([[0.0], [4.0], [5.0]]), 2)
        tensor([1, 0])
    """
    mean, total = features.mean(0), torch.zeros_like(features[0])
    is_left = torch.ones(len(features), dtype=torch.bool, device=features.device)
    chosen: list[torch.Tensor] = []
    for k in range(min(count, len(features))):
        distance = (mean - (features + total) / (k + 1)).norm(dim=1)
        best = distance.masked_fill(~is_left, torch.inf).argmin()
        is_left[best] = False
        total = total + features[best]
        chosen.append(best)
    return torch.stack(chosen)
