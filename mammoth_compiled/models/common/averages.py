"""Moving averages of a network (Arani et al. 2022, arXiv 2201.12604)."""

import torch
from torch import nn


def surer(one: torch.Tensor, other: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Returns per row the logits that give the label the higher probability, [B, K]."""
    of_label = (z.log_softmax(1).gather(1, labels[:, None]) for z in (one, other))
    return torch.where(next(of_label) > next(of_label), one, other)


def move_toward(average: nn.Module, net: nn.Module, rate: torch.Tensor) -> None:
    """Moves weights and statistics a share of the way toward those of another network, in place.

    Args:
        average: The network that moves.
        net: The network it moves toward.
        rate: Share of the way, 0-d.
    """
    pairs = zip(average.state_dict().values(), net.state_dict().values(), strict=True)
    floats = [(old, new) for old, new in pairs if old.is_floating_point()]
    old, new = (list(tensors) for tensors in zip(*floats, strict=True))
    steps = torch._foreach_sub(new, old)
    torch._foreach_mul_(steps, rate)
    torch._foreach_add_(old, steps)
