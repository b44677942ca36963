"""Every item of the stream is kept with the same chance.

Source: Vitter 1985, "Random Sampling with a Reservoir", algorithm R.
"""

import torch

from mammoth_compiled.buffers.policies.base import Policy, State
from mammoth_compiled.kernels.reservoir import slots_from_draws


def initial(capacity: int, num_classes: int, device: torch.device) -> State:
    """Returns the empty state: the number of items seen says all."""
    return {}


def draw(batch: int, device: torch.device) -> torch.Tensor:
    """Draws a number in [0, 1) for each item, float64, [B]."""
    return torch.rand(batch, dtype=torch.float64, device=device)


def choose(
    state: State, draws: torch.Tensor, labels: torch.Tensor, num_seen: int, capacity: int
) -> tuple[torch.Tensor, State]:
    """Returns the row of each item; see `Policy.choose`."""
    return slots_from_draws(draws, num_seen, capacity), state


POLICY = Policy(initial, draw, choose, by_class=False)
