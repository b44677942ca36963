"""Ring buffer: each class keeps its latest samples, in slots of its own.

The N slots are divided evenly among the K classes from the start; the first N mod K classes get
one more.

Source: Lopez-Paz and Ranzato 2017, "Gradient Episodic Memory"; Chaudhry et al. 2019, "On Tiny
Episodic Memories in Continual Learning", ring buffer.
"""

import torch

from mammoth_compiled.buffers.policies.base import (
    BufferPolicy,
    State,
    draw_nothing,
    position_in_class,
)


def initial_state(capacity: int, num_classes: int, device: torch.device) -> State:
    """Returns the number of samples seen of each class, and the mask of filled slots."""
    return {
        "seen": torch.zeros(num_classes, dtype=torch.int64, device=device),
        "filled": torch.zeros(capacity, dtype=torch.bool, device=device),
    }


def choose(
    state: State, draws: torch.Tensor, labels: torch.Tensor, num_seen: int, capacity: int
) -> tuple[torch.Tensor, State]:
    """Returns the slot of each sample; see `BufferPolicy.choose`."""
    seen = state["seen"]
    share, rest = divmod(capacity, len(seen))
    first = labels * share + labels.clamp(max=rest)
    size = share + (labels < rest).long()
    slots = first + (seen[labels] + position_in_class(labels)) % size
    return slots, {
        "seen": seen.index_add(0, labels, torch.ones_like(labels)),
        "filled": state["filled"].index_fill(0, slots, True),
    }


POLICY = BufferPolicy("ring", initial_state, draw_nothing, choose, needs_slot_per_class=True)
