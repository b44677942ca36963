"""Moving averages of a network (Arani et al. 2022, arXiv 2201.12604)."""

import copy
from argparse import ArgumentParser
from typing import Any

import torch
from torch import nn

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.config.values import probability
from mammoth_compiled.models.common.rehearsal import RehearsalModel
from mammoth_compiled.types import Batch


class AveragedReplayModel(RehearsalModel):
    """A model with a buffer and two moving averages of its network, of which one predicts.

    In each step, with its own probability, `theta_ema <- a theta_ema + (1 - a) theta` with
    `a = min(1 - 1 / (step + 1), ema_alpha)`.

    Attributes:
        plastic: The fast average.
        stable: The slow average, which predicts.
        step: Training steps so far, float, 0-d.
    """

    plastic: MammothBackbone
    stable: MammothBackbone
    step: torch.Tensor

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Adds the arguments of the buffer and of the averages."""
        RehearsalModel.get_parser(parser)
        for name, default in (("plastic", 0.9), ("stable", 0.1)):
            parser.add_argument(
                f"--{name}_update_prob",
                type=probability,
                default=default,
                help=f"Probability that a step updates the {name} network.",
            )
        parser.add_argument(
            "--ema_alpha",
            type=probability,
            default=0.999,
            help="Largest decay of the moving averages.",
        )
        return parser

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.plastic, self.stable = (
            copy.deepcopy(self.net).requires_grad_(False).eval() for _ in range(2)
        )
        self.register_buffer("step", torch.zeros((), device=self.device))

    def after_step(self, batch: Batch) -> None:
        """Offers the batch to the buffer and updates the averages."""
        super().after_step(batch)
        self.step += 1
        rate = (1 / (self.step + 1)).clamp(min=1 - self.args.ema_alpha)
        draws = torch.rand(2, device=self.device)
        chances = self.args.plastic_update_prob, self.args.stable_update_prob
        for net, draw, chance in zip((self.plastic, self.stable), draws, chances, strict=True):
            move_toward(net, self.net, torch.where(draw < chance, rate, 0.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the logits of the stable network, [B, K]."""
        logits: torch.Tensor = self.stable(x)
        return logits

    def deployed_net(self) -> MammothBackbone:
        """Returns the stable network."""
        return self.stable


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
