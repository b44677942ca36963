"""Dark Experience Replay++.

Source: Buzzega et al. 2020, "Dark Experience for General Continual Learning", arXiv 2004.07211.

The loss is that of DER plus `beta CE(z_s, y_s)` for a second draw of stored images x_s (eq. 6).
"""

from argparse import ArgumentParser
from typing import Any, ClassVar

import torch

from mammoth_compiled.config import non_negative_float
from mammoth_compiled.models.base import Settings
from mammoth_compiled.models.common.settings import fmnist, published
from mammoth_compiled.models.der import DER
from mammoth_compiled.registry import register_model
from mammoth_compiled.types import Batch


@register_model("derpp")
class DERpp(DER):
    """DER++: DER plus a cross-entropy loss on replayed labels (eq. 6)."""

    TARGETS: ClassVar[tuple[str, ...]] = ("labels", "logits")
    EXAMPLE_ARGS: ClassVar[dict[str, Any]] = {**DER.EXAMPLE_ARGS, "beta": 0.5}
    DEFAULTS: ClassVar[dict[str, Settings]] = {
        **published(
            {
                "seq-cifar10": {"lr": 0.03, "alpha": (0.2, 0.1, 0.1), "beta": (0.5, 0.5, 1.0)},
                "seq-cifar100": {"lr": 0.03, "alpha": 0.1, "beta": 0.5},
                "seq-tinyimg": {"lr": 0.03, "alpha": (0.2, 0.1, 0.1), "beta": (0.5, 1.0, 0.5)},
                "seq-mnist": {
                    "lr": (0.03, 0.03, 0.1),
                    "minibatch_size": (10, 128, 64),
                    "alpha": (1.0, 0.2, 0.2),
                    "beta": (0.5, 1.0, 0.5),
                },
                "perm-mnist": {
                    "lr": (0.2, 0.1, 0.2),
                    "minibatch_size": 128,
                    "alpha": (1.0, 1.0, 0.5),
                    "beta": (0.5, 1.0, 1.0),
                },
                "rot-mnist": {
                    "lr": (0.2, 0.1, 0.2),
                    "minibatch_size": 128,
                    "alpha": (0.5, 1.0, 0.5),
                    "beta": (1.0, 0.5, 0.5),
                },
                "mnist-360": {
                    "lr": 0.2,
                    "batch_size": 16,
                    "minibatch_size": (16, 16, 128),
                    "alpha": (0.5, 0.5, 0.2),
                    "beta": 1.0,
                },
            }
        ),
        **fmnist(alpha=0.2, beta=0.5),
    }

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Adds DER's arguments and `--beta`."""
        DER.get_parser(parser)
        parser.add_argument(
            "--beta",
            type=non_negative_float,
            required=True,
            help="Weight of the loss on replayed labels.",
        )
        return parser

    def replay_loss(
        self, batch: Batch, replay: dict[str, tuple[torch.Tensor, torch.Tensor]]
    ) -> torch.Tensor:
        """Returns DER's replay loss plus beta times the loss on a second draw's labels, 0-d."""
        inputs, labels = replay["labels"]
        loss = super().replay_loss(batch, replay)
        return loss + self.args.beta * self.mean_loss(batch, self.net(inputs), labels)

    def stored(self, batch: Batch) -> dict[str, torch.Tensor | None]:
        """Returns labels and logits."""
        return {"labels": batch.labels, "logits": batch.logits}
