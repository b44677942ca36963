"""Class-balancing reservoir sampling: classes share the buffer evenly even if the stream is skewed.

While the buffer has room, every sample is kept. After that, a sample of a class that is not full
replaces a random sample of the largest class. A class is full once it is, or has ever been, the
largest; it then keeps a reservoir of its own samples in the slots that it has.

Source: Chrysakis and Moens 2020, "Online Continual Learning from Imbalanced Data", algorithm 1
(CBRS). Classes are marked as full only once the buffer is full. If several classes are the largest,
each of their samples is equally likely to be replaced.
"""

import torch

from mammoth_compiled.buffers.policies.base import BufferPolicy, State, position_in_class


def initial_state(capacity: int, num_classes: int, device: torch.device) -> State:
    """Returns the class of each slot (-1 if empty), the samples seen and the full classes."""
    return {
        "classes": torch.full((capacity,), -1, device=device),
        "seen": torch.zeros(num_classes, dtype=torch.int64, device=device),
        "full": torch.zeros(num_classes, dtype=torch.bool, device=device),
    }


def draw(batch_size: int, device: torch.device) -> torch.Tensor:
    """Returns two uniform numbers in [0, 1) per sample, float64, [B, 2].

    The first decides whether the sample is kept, the second which one it replaces.
    """
    return torch.rand(batch_size, 2, dtype=torch.float64, device=device)


def choose(
    state: State, draws: torch.Tensor, labels: torch.Tensor, num_seen: int, capacity: int
) -> tuple[torch.Tensor, State]:
    """Returns the slot of each sample; see `BufferPolicy.choose`.

    Samples are processed one after the other, because the fate of each depends on the ones before
    it. Once the buffer is full, this takes about twenty small operations per sample.
    """
    classes, full = state["classes"].clone(), state["full"].clone()
    slots = torch.arange(len(labels), device=labels.device) + num_seen
    free = min(max(capacity - num_seen, 0), len(labels))
    classes[num_seen : num_seen + free] = labels[:free]
    # A full class with m stored samples keeps its n-th one with probability m / n: if draw * n < m.
    scaled = draws[:, 0] * (state["seen"][labels] + position_in_class(labels) + 1)
    one = torch.ones_like(labels[:1])
    stored = torch.zeros_like(state["seen"])
    if free < len(labels):
        stored.index_add_(0, classes, one.expand(capacity))
    for i in range(free, len(labels)):
        label = labels[i : i + 1]
        largest = stored == stored.max()
        full |= largest
        own = full[label]
        # A full class that has lost all its slots has nothing to replace: its sample is dropped.
        kept = ~own | (scaled[i] < stored[label])
        rivals = torch.where(own, classes == label, largest[classes]).cumsum(0)
        nth = (draws[i, 1] * rivals[-1:]).long() + one
        slot = torch.searchsorted(rivals, nth).clamp_(max=capacity - 1)
        slots[i : i + 1] = torch.where(kept, slot, -1)
        replaced = classes[slot]
        stored.index_add_(0, replaced, -kept.long())
        stored.index_add_(0, label, kept.long())
        classes[slot] = torch.where(kept, label, replaced)
    seen = state["seen"].index_add(0, labels, one.expand_as(labels))
    return slots, {"classes": classes, "seen": seen, "full": full}


POLICY = BufferPolicy("class-balanced", initial_state, draw, choose)
