"""Dark Experience Replay.

Source: Buzzega et al. 2020, "Dark Experience for General Continual Learning", arXiv 2004.07211.

DER's loss is `CE(z, y) + alpha mean (z_r - z'_r)^2` with replayed images x_r and the logits z'_r
that were stored with them (eq. 4).
"""

from argparse import ArgumentParser
from typing import Any, ClassVar

import torch
from torch.nn import functional as F

from mammoth_compiled.config import non_negative_float
from mammoth_compiled.models.base import Settings
from mammoth_compiled.models.common.rehearsal import RehearsalModel
from mammoth_compiled.models.common.settings import EVERY_SETTING, fmnist, published
from mammoth_compiled.registry import register_model
from mammoth_compiled.types import Batch


@register_model("der")
class DER(RehearsalModel):
    """Dark Experience Replay: matches the network's logits to stored ones on replay (eq. 4)."""

    COMPATIBILITY: ClassVar[list[str]] = EVERY_SETTING
    HAS_LOSSES: ClassVar[bool] = True
    # What is replayed to, in the order of the draws.
    TARGETS: ClassVar[tuple[str, ...]] = ("logits",)
    EXAMPLE_ARGS: ClassVar[dict[str, Any]] = {**RehearsalModel.EXAMPLE_ARGS, "alpha": 0.3}
    DEFAULTS: ClassVar[dict[str, Settings]] = {
        **published(
            {
                "seq-cifar10": {"lr": 0.03, "alpha": 0.3},
                "seq-cifar100": {"lr": 0.03, "alpha": 0.3},
                "seq-tinyimg": {"lr": 0.03, "alpha": 0.1},
                "seq-mnist": {
                    "lr": (0.03, 0.03, 0.1),
                    "minibatch_size": (128, 10, 128),
                    "alpha": (1.0, 0.2, 0.5),
                },
                "perm-mnist": {"lr": 0.2, "minibatch_size": 128, "alpha": (1.0, 1.0, 0.5)},
                "rot-mnist": {"lr": 0.2, "minibatch_size": 128, "alpha": (0.5, 1.0, 0.5)},
                "mnist-360": {
                    "lr": (0.2, 0.1, 0.1),
                    "batch_size": (16, 16, 8),
                    "minibatch_size": (16, 64, 16),
                    "alpha": 0.5,
                },
            }
        ),
        **fmnist(alpha=0.3),
    }

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Adds the buffer's arguments and `--alpha`."""
        RehearsalModel.get_parser(parser)
        parser.add_argument(
            "--alpha",
            type=non_negative_float,
            required=True,
            help="Weight of the mean squared error between current and stored logits.",
        )
        return parser

    def draw(self, batch: Batch) -> None:
        """Draws images for each target on its own, unless the buffer is empty."""
        empty = self.buffer.is_empty()
        batch.replay = {} if empty else {name: self._replay(batch, name) for name in self.TARGETS}

    def training_loss(self, batch: Batch) -> torch.Tensor:
        """Returns the loss of the batch plus the replay loss, 0-d."""
        batch.logits = self.net(batch.inputs)
        loss = self.mean_loss(batch, batch.logits, batch.labels)
        if batch.replay is None:
            self.draw(batch)
        return loss + self.replay_loss(batch, batch.replay) if batch.replay else loss

    def net_batch_sizes(self) -> set[int]:
        """Returns the sizes of the stream batch and of a replay batch."""
        return {self.args.batch_size, self.args.minibatch_size}

    def images_per_step(self) -> int:
        """Returns the images of the stream batch and of a replay batch for each target."""
        return int(self.args.batch_size + len(self.TARGETS) * self.args.minibatch_size)

    def replay_loss(
        self, batch: Batch, replay: dict[str, tuple[torch.Tensor, torch.Tensor]]
    ) -> torch.Tensor:
        """Returns alpha times the mean squared error to the stored logits, 0-d.

        Args:
            batch: The batch.
            replay: See `Batch.replay`.
        """
        inputs, logits = replay["logits"]
        return self.args.alpha * F.mse_loss(self.net(inputs), logits)

    def _replay(self, batch: Batch, target: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Draws augmented images, [M, C, H, W], and what was stored with them as `target`."""
        rows = batch.replayed
        data = self.replay_rows(batch)
        if target != "labels":  # for which there is no loss to note
            batch.replayed = rows
        return data[0], data[self.buffer.used_attributes.index(target)]

    def stored(self, batch: Batch) -> dict[str, torch.Tensor | None]:
        """Returns the logits."""
        return {"logits": batch.logits}
