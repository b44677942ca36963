"""Classes share the buffer evenly, whatever their shares of the stream.

While there is room everything is kept. Then an item of a class that is not full takes the place of
one of the largest class; a class that is or once was the largest is full, and keeps a reservoir of
its own items in the rows it has.

Source: Chrysakis and Moens 2020, "Online Continual Learning from Imbalanced Data", algorithm 1
(CBRS). Classes are looked at from when the buffer is full; of several largest ones all items are
equally likely to go.
"""

import torch

from mammoth_compiled.buffers.policies.base import Policy, State, place_in_class


def initial(capacity: int, num_classes: int, device: torch.device) -> State:
    """Returns the state: class of each row (-1 empty), items seen of each class, full classes."""
    return {
        "classes": torch.full((capacity,), -1, device=device),
        "seen": torch.zeros(num_classes, dtype=torch.int64, device=device),
        "full": torch.zeros(num_classes, dtype=torch.bool, device=device),
    }


def draw(batch: int, device: torch.device) -> torch.Tensor:
    """Draws two numbers in [0, 1) for each item: whether it is kept, and where; float64, [B, 2]."""
    return torch.rand(batch, 2, dtype=torch.float64, device=device)


def choose(
    state: State, draws: torch.Tensor, labels: torch.Tensor, num_seen: int, capacity: int
) -> tuple[torch.Tensor, State]:
    """Returns the row of each item; see `Policy.choose`.

    The items are taken one after the other, since each one's chance depends on what the former
    left: about twenty small operations an item once the buffer is full.
    """
    classes, full = state["classes"].clone(), state["full"].clone()
    slots = torch.arange(len(labels), device=labels.device) + num_seen
    free = min(max(capacity - num_seen, 0), len(labels))
    classes[num_seen : num_seen + free] = labels[:free]
    # A full class keeps its n-th item with chance m / n if m are stored: if draw * n < m.
    scaled = draws[:, 0] * (state["seen"][labels] + place_in_class(labels) + 1)
    one = torch.ones_like(labels[:1])
    stored = torch.zeros_like(state["seen"])
    if free < len(labels):
        stored.index_add_(0, classes, one.expand(capacity))
    for i in range(free, len(labels)):
        label = labels[i : i + 1]
        largest = stored == stored.max()
        full |= largest
        own = full[label]
        # A full class with no row left has nothing to replace, and is not kept either.
        kept = ~own | (scaled[i] < stored[label])
        rivals = torch.where(own, classes == label, largest[classes]).cumsum(0)
        nth = (draws[i, 1] * rivals[-1:]).long() + one
        row = torch.searchsorted(rivals, nth).clamp_(max=capacity - 1)
        slots[i : i + 1] = torch.where(kept, row, -1)
        replaced = classes[row]
        stored.index_add_(0, replaced, -kept.long())
        stored.index_add_(0, label, kept.long())
        classes[row] = torch.where(kept, label, replaced)
    seen = state["seen"].index_add(0, labels, one.expand_as(labels))
    return slots, {"classes": classes, "seen": seen, "full": full}


POLICY = Policy(initial, draw, choose)
