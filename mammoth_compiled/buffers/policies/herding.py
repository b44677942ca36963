"""Each class keeps, after its task, the items whose mean feature is nearest to the class's.

Source: Rebuffi et al. 2017, "iCaRL: Incremental Classifier and Representation Learning", algorithms
4 and 5. Items are chosen one after the other, each once; when later classes come, each class gives
up those it chose last. A class that comes in several tasks counts as one of each.
"""

import torch
from torch.nn import functional as F

from mammoth_compiled.buffers.policies.base import Policy, State, draw_nothing


def initial(capacity: int, num_classes: int, device: torch.device) -> State:
    """Returns the state: which rows are filled, the rank of each in its class, classes so far."""
    return {
        "filled": torch.zeros(capacity, dtype=torch.bool, device=device),
        "ranks": torch.zeros(capacity, dtype=torch.int64, device=device),
        "groups": torch.zeros((), dtype=torch.int64, device=device),
    }


def rank(
    features: torch.Tensor, labels: torch.Tensor, num_classes: int, quota: int
) -> torch.Tensor:
    """Chooses items of all classes by herding.

    Args:
        features: Features of any length, [n, F].
        labels: Class ids, int64, [n].
        num_classes: K.
        quota: Items to choose of each class, m; fewer where it has fewer.

    Returns:
        When each item was chosen among those of its class, 0..m-1; m for one that was not. [n].
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
        # The first of several at the same distance.
        first = rows.new_full((num_classes,), len(rows))
        first.scatter_reduce_(0, labels, torch.where(candidate, rows, len(rows)), "amin")
        is_chosen = candidate & (first[labels] == rows)
        ranks = torch.where(is_chosen, k, ranks)
        chosen.index_add_(0, labels, features * is_chosen[:, None])
    return ranks


def end_task(
    state: State, features: torch.Tensor, labels: torch.Tensor, num_classes: int
) -> tuple[torch.Tensor, torch.Tensor, State]:
    """Shares the rows out anew between the classes so far and those of the task that is over.

    Args:
        state: The state before.
        features: Features of all items of the task, [n, F].
        labels: Their classes, int64, [n].
        num_classes: K.

    Returns:
        The rows to keep, in order, int64; the items to put behind them, int64; the new state.

    Raises:
        ValueError: If there are more classes than rows.
    """
    capacity = len(state["filled"])
    groups = int(state["groups"]) + len(labels.unique())
    quota = capacity // groups if groups else 0
    if quota == 0 and groups:
        raise ValueError(
            f"herding keeps a row for each class of each task at least: {capacity} rows are too "
            f"few for {groups}. Use a larger --buffer_size"
        )
    ranks = rank(features, labels, num_classes, quota)
    old = (state["filled"] & (state["ranks"] < quota)).nonzero()[:, 0]
    new = (ranks < quota).nonzero()[:, 0]
    held = torch.cat((state["ranks"][old], ranks[new]))
    after = initial(capacity, num_classes, labels.device)
    after["filled"][: len(held)] = True
    after["ranks"][: len(held)] = held
    after["groups"].fill_(groups)
    return old, new, after


POLICY = Policy(initial, draw_nothing, None, row_per_class=True)
