"""The end of a training step in plain torch."""

from collections.abc import Sequence

import torch


def end(
    counters: Sequence[torch.Tensor],
    amounts: Sequence[int],
    loss: torch.Tensor,
    losses: torch.Tensor,
    slot: torch.Tensor,
) -> None:
    """Advances counters and appends a loss; see `op.end_step`."""
    for counter, amount in zip(counters, amounts, strict=True):
        counter.add_(amount)
    losses.index_copy_(0, slot.view(1), loss.view(1).to(losses.dtype))
    slot.add_(1).remainder_(len(losses))
