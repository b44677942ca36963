"""Every item of the stream is kept with the same chance.

Source: Vitter 1985, "Random Sampling with a Reservoir", algorithm R.
"""

import torch

from mammoth_compiled.buffers.policies.base import Policy, State
from mammoth_compiled.kernels import launch, philox, reservoir


def initial(capacity: int, num_classes: int, device: torch.device) -> State:
    """Returns the state: items seen, and on a GPU a generator that starts where torch's is."""
    state = {"seen": torch.zeros((), dtype=torch.int64, device=device)}
    if launch.supports(device):
        state["random"] = philox.random_state(int(torch.randint(2**62, ())), device)
    return state


def draw(batch: int, device: torch.device) -> torch.Tensor:
    """Draws a number in [0, 1) for each item, float64, [B]."""
    return torch.rand(batch, dtype=torch.float64, device=device)


def choose(
    state: State, draws: torch.Tensor, labels: torch.Tensor, num_seen: int, capacity: int
) -> tuple[torch.Tensor, State]:
    """Returns the row of each item; see `Policy.choose`."""
    slots = reservoir.slots_from_draws(draws, state["seen"], capacity)
    return slots, {**state, "seen": state["seen"] + len(draws)}


def update(state: State, stores: list[torch.Tensor], rows: list[torch.Tensor]) -> None:
    """Writes a batch into the stores by one kernel; see `Policy.update`."""
    reservoir.update(stores, rows, state["seen"], state["random"])
    state["seen"] += len(rows[0])
    philox.advance(state["random"])


POLICY = Policy(initial, draw, choose, update, by_class=False)
