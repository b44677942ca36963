"""Images of a task that a model does not train on."""

from typing import Any

import numpy as np
import torch

from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.datasets.splits import take_rows
from mammoth_compiled.models.common.balanced import rank_in_group, task_labels


def hold_out(dataset: ContinualDataset, quota: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Takes equally many images of each class out of the training set of the current task.

    Args:
        dataset: The dataset; which images are taken depends on the task alone.
        quota: Images of each class to take; at most half of a class is.

    Returns:
        The images in [0, 1], [n, C, H, W], and their class ids, int64, [n].
    """
    data: Any = dataset.train_loader.dataset
    labels = task_labels(dataset)
    generator = torch.Generator().manual_seed(dataset.c_task)
    order = torch.randperm(len(labels), generator=generator).to(labels.device)
    rank = torch.empty_like(labels)
    rank[order] = rank_in_group(labels[order])
    held_out = rank < (labels.bincount() // 2).clamp(max=quota)[labels]
    images = dataset.train_loader.gather(held_out.nonzero()[:, 0])[2]
    keep = (~held_out).nonzero()[:, 0].cpu().numpy()
    data.data = take_rows(data.data, keep)
    for name in ("targets", "true_targets"):
        if hasattr(data, name):
            setattr(data, name, np.asarray(getattr(data, name))[keep])
    return images, labels[held_out]
