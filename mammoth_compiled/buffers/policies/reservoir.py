"""Reservoir sampling: every sample of the stream is kept with the same probability.

Source: Vitter 1985, "Random Sampling with a Reservoir", algorithm R.
"""

import torch

from mammoth_compiled.buffers.policies.base import BufferPolicy, State
from mammoth_compiled.kernels.reservoir import reference, update_reservoir
from mammoth_compiled.kernels.runtime import device as kernel_device
from mammoth_compiled.kernels.runtime import philox
from mammoth_compiled.kernels.runtime.deferred import advance_counters, settle_counters


def initial_state(capacity: int, num_classes: int, device: torch.device) -> State:
    """Returns the number of samples seen and, on a GPU, a generator seeded from torch's."""
    state = {"seen": torch.zeros((), dtype=torch.int64, device=device)}
    if kernel_device.supports_triton(device):
        state["random"] = philox.random_state(int(torch.randint(2**62, ())), device)
    return state


def draw(batch_size: int, device: torch.device) -> torch.Tensor:
    """Returns one uniform number in [0, 1) per sample, float64, [B]."""
    return torch.rand(batch_size, dtype=torch.float64, device=device)


def choose(
    state: State, draws: torch.Tensor, labels: torch.Tensor, num_seen: int, capacity: int
) -> tuple[torch.Tensor, State]:
    """Returns the slot of each sample; see `BufferPolicy.choose`."""
    slots = reference.slots_from_draws(draws, state["seen"], capacity)
    return slots, {**state, "seen": state["seen"] + len(draws)}


def update(state: State, stores: list[torch.Tensor], rows: list[torch.Tensor]) -> None:
    """Samples and writes a batch with one kernel; see `BufferPolicy.update`."""
    settle_counters(state["seen"], state["random"][1])  # of an update before in the same step
    update_reservoir(stores, rows, state["seen"], state["random"])
    advance_counters([state["seen"], state["random"][1]], [len(rows[0]), 1])


POLICY = BufferPolicy("reservoir", initial_state, draw, choose, update, needs_labels=False)
