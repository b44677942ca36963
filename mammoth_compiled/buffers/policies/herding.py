"""Herding: after its task, each class keeps the samples whose mean feature best matches its own.

Samples are selected greedily, each at most once. When later tasks add classes, every class drops
the samples that it selected last. A class that appears in several tasks counts once per task.

Source: Rebuffi et al. 2017, "iCaRL: Incremental Classifier and Representation Learning", algorithms
4 and 5.
"""

import torch
from torch.nn import functional as F

from mammoth_compiled.buffers.policies.base import BufferPolicy, State, draw_nothing


def initial_state(capacity: int, num_classes: int, device: torch.device) -> State:
    """Returns the mask of filled slots, their ranks in their classes, and the number of classes."""
    return {
        "filled": torch.zeros(capacity, dtype=torch.bool, device=device),
        "ranks": torch.zeros(capacity, dtype=torch.int64, device=device),
        "groups": torch.zeros((), dtype=torch.int64, device=device),
    }


def herding_ranks(
    features: torch.Tensor, labels: torch.Tensor, num_classes: int, quota: int
) -> torch.Tensor:
    """Ranks the samples of each class by the order in which herding selects them.

    Args:
        features: Features of any norm, [n, F]; they are normalized here.
        labels: Class ids, int64, [n].
        num_classes: K.
        quota: Samples to select per class, m; a class with fewer samples selects them all.

    Returns:
        Rank of each sample within its class, 0 to m-1, or m if it is not selected; int64, [n].

    Example:
        >>> import torch
        >>> features = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        >>> herding_ranks(features, torch.tensor([0, 0, 0]), num_classes=1, quota=1)
        tensor([1, 0, 1])
    """
    features = F.normalize(features)
    count = labels.new_zeros(num_classes).index_add_(0, labels, torch.ones_like(labels))
    total = features.new_zeros(num_classes, features.shape[1]).index_add_(0, labels, features)
    mean = F.normalize(total / count.clamp(min=1)[:, None])
    chosen = torch.zeros_like(total)
    rows = torch.arange(len(labels), device=labels.device)
    ranks = torch.full_like(labels, quota)
    for k in range(quota):
        goal = ((k + 1) * mean - chosen)[labels]
        distance = (goal - features).square().sum(1).masked_fill(ranks < quota, torch.inf)
        nearest = distance.new_full((num_classes,), torch.inf)
        nearest.scatter_reduce_(0, labels, distance, "amin")
        candidate = (distance == nearest[labels]) & (ranks == quota)
        # Ties go to the first sample.
        first = rows.new_full((num_classes,), len(rows))
        first.scatter_reduce_(0, labels, torch.where(candidate, rows, len(rows)), "amin")
        is_chosen = candidate & (first[labels] == rows)
        ranks = torch.where(is_chosen, k, ranks)
        chosen.index_add_(0, labels, features * is_chosen[:, None])
    return ranks


def end_task(
    state: State, features: torch.Tensor, labels: torch.Tensor, num_classes: int
) -> tuple[torch.Tensor, torch.Tensor, State]:
    """Divides the slots among all classes so far, those of the finished task included.

    Args:
        state: The state before.
        features: Features of all samples of the task, [n, F].
        labels: Their class ids, int64, [n].
        num_classes: K.

    Returns:
        The slots to keep, in order, int64; the indices of the samples to store behind them, int64;
        the new state.

    Raises:
        ValueError: If there are more classes than slots.
    """
    capacity = len(state["filled"])
    groups = int(state["groups"]) + len(labels.unique())
    quota = capacity // groups if groups else 0
    if quota == 0 and groups:
        raise ValueError(
            f"herding keeps at least one sample per class and task, but the buffer holds "
            f"{capacity} samples and there are {groups} classes. Increase --buffer_size"
        )
    ranks = herding_ranks(features, labels, num_classes, quota)
    old = (state["filled"] & (state["ranks"] < quota)).nonzero()[:, 0]
    new = (ranks < quota).nonzero()[:, 0]
    held = torch.cat((state["ranks"][old], ranks[new]))
    after = initial_state(capacity, num_classes, labels.device)
    after["filled"][: len(held)] = True
    after["ranks"][: len(held)] = held
    after["groups"].fill_(groups)
    return old, new, after


POLICY = BufferPolicy(
    "herding", initial_state, draw_nothing, end_task=end_task, needs_slot_per_class=True
)
