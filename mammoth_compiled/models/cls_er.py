"""CLS-ER: Experience Replay with a complementary learning system.

Source: Arani et al. 2022, "Learning Fast, Learning Slow: A General Learning Method based on
Complementary Learning System", arXiv 2201.12604.

The loss is `CE(z, y) + reg_weight MSE(z_r, z_sel)`: cross-entropy of stream and replay together,
and consistency of the replayed images. z_sel are per image the logits of the plastic or the stable
network, whichever is surer of the label. Both are exponential moving averages of the weights: in
each step, with its own probability, `theta_ema <- a theta_ema + (1 - a) theta` with
`a = min(1 - 1 / (step + 1), alpha)`. The stable network predicts.

Deviation: running statistics of batch norm are averaged like weights, and the averaged networks are
in eval mode.
"""

from argparse import ArgumentParser
from typing import Any, ClassVar

import torch
from torch.nn import functional as F

from mammoth_compiled.config import non_negative_float
from mammoth_compiled.models.base import Settings
from mammoth_compiled.models.common.averages import AveragedReplayModel, surer
from mammoth_compiled.models.common.settings import EVERY_SETTING, OWN, published
from mammoth_compiled.registry import register_model
from mammoth_compiled.types import Batch

_CIFAR = {
    "lr": 0.1,
    "reg_weight": 0.15,
    "plastic_update_prob": (0.9, 0.3),
    "stable_update_prob": 0.1,
    "source": "Arani et al. 2022, arXiv 2201.12604, authors' code",
}

# Few steps: averages over ten of them.
_SHORT = {"ema_alpha": 0.9, "stable_update_prob": 1.0, "plastic_update_prob": 1.0}


@register_model("cls-er")
class CLSER(AveragedReplayModel):
    """CLS-ER: replay that is held to a fast and a slow average of the network."""

    COMPATIBILITY: ClassVar[list[str]] = EVERY_SETTING
    HAS_LOSSES: ClassVar[bool] = True
    DEFAULTS: ClassVar[dict[str, Settings]] = {
        **published({"seq-cifar10": _CIFAR, "seq-cifar100": {"lr": 0.1, "source": OWN}}),
        "seq-mnist": {"buffer_size": 500, "source": OWN},
        # In one epoch of 375 steps the paper's averages would not leave the first task.
        "seq-fmnist": {
            "buffer_size": 500,
            "ema_alpha": 0.99,
            "stable_update_prob": 0.5,
            "source": OWN,
        },
        "seq-fmnist-mini": {"buffer_size": 500, **_SHORT, "source": OWN},
    }
    EXAMPLE_ARGS: ClassVar[dict[str, Any]] = {**AveragedReplayModel.EXAMPLE_ARGS, **_SHORT}

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Adds the arguments of the buffer, the averages and the consistency loss."""
        AveragedReplayModel.get_parser(parser)
        parser.add_argument(
            "--reg_weight",
            type=non_negative_float,
            default=0.1,
            help="Weight of the consistency loss.",
        )
        return parser

    def training_loss(self, batch: Batch) -> torch.Tensor:
        """Returns the loss of stream and replay plus the consistency loss, 0-d."""
        if self.buffer.is_empty():
            return self.mean_loss(batch, self.net(batch.inputs), batch.labels)
        images, labels, *_ = self.replay_rows(batch)
        logits = self.net(torch.cat((batch.inputs, images)))
        loss = self.mean_loss(batch, logits, torch.cat((batch.labels, labels)))
        with torch.no_grad():
            targets = surer(self.plastic(images), self.stable(images), labels)
        replayed = logits[len(batch.inputs) :]
        return loss + self.args.reg_weight * F.mse_loss(replayed, targets)

    def net_batch_sizes(self) -> set[int]:
        """Returns the sizes of the stream batch, of a replay batch and of both together."""
        stream, replay = self.args.batch_size, self.args.minibatch_size
        return {stream, replay, stream + replay}
