"""Loss-aware reservoir sampling: samples with a small loss make room for new ones.

While the buffer has room, every sample is kept. After that, the n-th sample of the stream is kept
with probability N / n. It replaces row i with a probability proportional to 1 - s_i, where s_i is
the latest loss of the row, scaled linearly to [0, 1] over the buffer.

Source: Buzzega et al. 2020, "Rethinking Experience Replay: a Bag of Tricks for Continual Learning",
arXiv 2010.05595.
"""

from collections.abc import Callable
from functools import partial

import torch

from mammoth_compiled.buffers.policies.base import BufferPolicy, State

Weights = Callable[[State], torch.Tensor]


def initial_state(capacity: int, num_classes: int, device: torch.device) -> State:
    """Returns the loss of each slot, 0 if it is empty, and the number of samples seen."""
    return {
        "losses": torch.zeros(capacity, device=device),
        "seen": torch.zeros((), dtype=torch.int64, device=device),
    }


def draw(batch_size: int, device: torch.device) -> torch.Tensor:
    """Returns two uniform numbers in [0, 1) per sample, float64, [B, 2].

    The first decides whether the sample is kept, the second which one it replaces.
    """
    return torch.rand(batch_size, 2, dtype=torch.float64, device=device)


def scaled(values: torch.Tensor) -> torch.Tensor:
    """Returns values, [N], scaled linearly to [0, 1]; 0 if all are equal.

    Example:
        >>> import torch
        >>> scaled(torch.tensor([1.0, 2.0, 5.0]))
        tensor([0.0000, 0.2500, 1.0000])
    """
    lowest = values.min()
    width = values.max() - lowest
    return (values - lowest) / torch.where(width > 0, width, 1)


def replacement_weights(state: State) -> torch.Tensor:
    """Returns the weight with which each row of a full buffer is replaced, float64, [N]."""
    return 1 - scaled(state["losses"].double())


def choose(
    weights_of: Weights,
    state: State,
    draws: torch.Tensor,
    labels: torch.Tensor,
    num_seen: int,
    capacity: int,
    losses: torch.Tensor,
) -> tuple[torch.Tensor, State]:
    """Returns the slot of each sample; see `BufferPolicy.choose`.

    Samples are processed one after the other, because each changes the losses that the next one
    competes with. Once the buffer is full, this takes about twenty small operations per sample.

    Args:
        weights_of: Returns the weight with which each row of a full buffer is replaced, [N].
        state: The state; what it holds of each row is updated.
        draws: Of `draw`.
        labels: Class ids, int64, [B], or empty.
        num_seen: Samples seen before this batch.
        capacity: N.
        losses: Losses of the samples, [B].
    """
    count = len(losses)
    rows = {"losses": losses.to(state["losses"].dtype), "classes": labels}
    rows = {name: value for name, value in rows.items() if name in state}
    after = {name: tensor.clone() for name, tensor in state.items()}
    slots = torch.arange(count, device=losses.device) + num_seen
    free = min(max(capacity - num_seen, 0), count)
    for name, value in rows.items():
        after[name][num_seen : num_seen + free] = value[:free]
    ordinal = state["seen"] + torch.arange(1, count + 1, device=losses.device)
    is_kept = draws[:, 0] * ordinal < capacity
    for i in range(free, count):
        weights = weights_of(after)
        # Equal samples are replaced with equal probability.
        total = torch.where(weights.sum() > 0, weights, 1).cumsum(0)
        slot = torch.searchsorted(total, draws[i, 1] * total[-1:], right=True)
        slot = slot.clamp_(max=capacity - 1)
        slots[i : i + 1] = torch.where(is_kept[i], slot, -1)
        for name, value in rows.items():
            after[name][slot] = torch.where(is_kept[i], value[i], after[name][slot])
    after["seen"] += count
    return slots, after


POLICY = BufferPolicy(
    "loss-aware",
    initial_state,
    draw,
    partial(choose, replacement_weights),
    needs_labels=False,
    needs_losses=True,
)
