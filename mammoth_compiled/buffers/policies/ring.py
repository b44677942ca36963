"""Each class keeps its latest items, in rows of its own.

Source: Lopez-Paz and Ranzato 2017, "Gradient Episodic Memory"; Chaudhry et al. 2019, "On Tiny
Episodic Memories in Continual Learning", ring buffer. The N rows are shared out evenly among the K
classes from the start, the first N mod K of which have one more.
"""

import torch

from mammoth_compiled.buffers.policies.base import Policy, State, draw_nothing, place_in_class


def initial(capacity: int, num_classes: int, device: torch.device) -> State:
    """Returns the state: items seen of each class, and which rows are filled."""
    return {
        "seen": torch.zeros(num_classes, dtype=torch.int64, device=device),
        "filled": torch.zeros(capacity, dtype=torch.bool, device=device),
    }


def choose(
    state: State, draws: torch.Tensor, labels: torch.Tensor, num_seen: int, capacity: int
) -> tuple[torch.Tensor, State]:
    """Returns the row of each item; see `Policy.choose`."""
    seen = state["seen"]
    share, rest = divmod(capacity, len(seen))
    first = labels * share + labels.clamp(max=rest)
    size = share + (labels < rest).long()
    slots = first + (seen[labels] + place_in_class(labels)) % size
    return slots, {
        "seen": seen.index_add(0, labels, torch.ones_like(labels)),
        "filled": state["filled"].index_fill(0, slots, True),
    }


POLICY = Policy(initial, draw_nothing, choose, row_per_class=True)
