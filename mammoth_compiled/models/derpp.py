"""Dark Experience Replay++.

Source: Buzzega et al. 2020, "Dark Experience for General Continual Learning", arXiv 2004.07211.

The loss is that of DER plus `beta CE(z_s, y_s)` for a second draw of stored images x_s (eq. 6).
"""

from argparse import ArgumentParser
from typing import Any, ClassVar

import torch

from mammoth_compiled.config import non_negative_float
from mammoth_compiled.models.base import Settings
from mammoth_compiled.models.common import settings
from mammoth_compiled.models.der import DER
from mammoth_compiled.registry import register_model
from mammoth_compiled.types import Batch


@register_model("derpp")
class DERpp(DER):
    """DER++: DER plus a cross-entropy loss on replayed labels (eq. 6)."""

    TARGETS: ClassVar[tuple[str, ...]] = ("labels", "logits")
    EXAMPLE_ARGS: ClassVar[dict[str, Any]] = {**DER.EXAMPLE_ARGS, "beta": 0.5}
    DEFAULTS: ClassVar[dict[str, Settings]] = {
        "seq-cifar10": settings.by_buffer(
            {
                500: {"alpha": 0.2, "beta": 0.5},
                200: {"alpha": 0.1, "beta": 0.5},
                5120: {"alpha": 0.1, "beta": 1.0},
            },
            lr=0.03,
            **settings.CIFAR10,
            source=settings.DER,
        ),
        "seq-cifar100": {
            "lr": 0.03,
            "buffer_size": 500,
            "alpha": 0.1,
            "beta": 0.5,
            **settings.CIFAR100,
            "source": settings.XDER,
        },
        "seq-tinyimg": settings.by_buffer(
            {
                500: {"alpha": 0.2, "beta": 0.5},
                200: {"alpha": 0.1, "beta": 1.0},
                5120: {"alpha": 0.1, "beta": 0.5},
            },
            lr=0.03,
            **settings.TINY,
            source=settings.DER,
        ),
        "seq-mnist": settings.by_buffer(
            {
                500: {"lr": 0.03, "minibatch_size": 10, "alpha": 1.0, "beta": 0.5},
                200: {"lr": 0.03, "minibatch_size": 128, "alpha": 0.2, "beta": 1.0},
                5120: {"lr": 0.1, "minibatch_size": 64, "alpha": 0.2, "beta": 0.5},
            },
            **settings.MNIST,
            source=settings.DER,
        ),
        "perm-mnist": settings.by_buffer(
            {
                500: {"lr": 0.2, "alpha": 1.0, "beta": 0.5},
                200: {"lr": 0.1, "alpha": 1.0, "beta": 1.0},
                5120: {"lr": 0.2, "alpha": 0.5, "beta": 1.0},
            },
            minibatch_size=128,
            **settings.DOMAINS,
            source=settings.DER,
        ),
        "rot-mnist": settings.by_buffer(
            {
                500: {"lr": 0.2, "alpha": 0.5, "beta": 1.0},
                200: {"lr": 0.1, "alpha": 1.0, "beta": 0.5},
                5120: {"lr": 0.2, "alpha": 0.5, "beta": 0.5},
            },
            minibatch_size=128,
            **settings.DOMAINS,
            source=settings.DER,
        ),
        "mnist-360": settings.by_buffer(
            {
                500: {"minibatch_size": 16, "alpha": 0.5},
                200: {"minibatch_size": 16, "alpha": 0.5},
                1000: {"minibatch_size": 128, "alpha": 0.2},
            },
            lr=0.2,
            batch_size=16,
            beta=1.0,
            source=settings.DER,
        ),
        **settings.fmnist(alpha=0.2, beta=0.5),
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
