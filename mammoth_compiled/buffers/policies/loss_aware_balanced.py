"""Loss-aware balanced reservoir sampling: a small loss or a large class makes room for new samples.

It is loss-aware reservoir sampling (see `loss_aware`) with other weights. Row i of class y_i with
the latest loss l_i is replaced with a probability proportional to

    w_i = n_i / 2 - l_i / (2 mean|l| mean n),

scaled linearly to [0, 1] over the buffer, where n_i is the number of rows of class y_i.

Source: Buzzega et al. 2020, "Rethinking Experience Replay: a Bag of Tricks for Continual Learning",
arXiv 2010.05595.
"""

from functools import partial

import torch

from mammoth_compiled.buffers.policies import loss_aware
from mammoth_compiled.buffers.policies.base import BufferPolicy, State


def initial_state(capacity: int, num_classes: int, device: torch.device) -> State:
    """Returns loss and class of each slot, the samples seen, and a zero for each class."""
    return {
        **loss_aware.initial_state(capacity, num_classes, device),
        "classes": torch.zeros(capacity, dtype=torch.int64, device=device),
        "none": torch.zeros(num_classes, dtype=torch.float64, device=device),
    }


def replacement_weights(state: State) -> torch.Tensor:
    """Returns the weight with which each row of a full buffer is replaced, float64, [N]."""
    losses, classes = state["losses"].double(), state["classes"]
    rows = state["none"].index_add(0, classes, torch.ones_like(losses))[classes]
    size = losses.abs().mean() * rows.mean()
    return loss_aware.scaled(rows / 2 - losses / (2 * torch.where(size > 0, size, 1)))


POLICY = BufferPolicy(
    "loss-aware-balanced",
    initial_state,
    loss_aware.draw,
    partial(loss_aware.choose, replacement_weights),
    needs_losses=True,
)
