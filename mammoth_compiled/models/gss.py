"""Gradient-based Sample Selection, the greedy variant.

Source: Aljundi et al. 2019, "Gradient Based Sample Selection for Online Continual Learning", arXiv
1903.08671, algorithm 2.

The score of an image is `c = 1 + max_j cos(g, g_j)` over stored images j, where g are gradients of
the loss. Once the buffer is full, an image with c < 1 replaces row i, drawn with probability `c_i /
sum_j c_j`, with probability `c_i / (c_i + c)`.

Deviations: gradients are those of the classification layer, whose cosine similarity has a closed
form; all images of a batch are decided at once, each with the scores before the batch.
"""

from argparse import ArgumentParser
from typing import Any, ClassVar

import torch

from mammoth_compiled.config import add_rehearsal_args, positive_int
from mammoth_compiled.kernels.reservoir.reference import slot_owners, write_slots
from mammoth_compiled.models.base import Settings
from mammoth_compiled.models.common.features import normalized
from mammoth_compiled.models.common.settings import OWN, fmnist, published
from mammoth_compiled.models.common.similarity import gradient_similarity
from mammoth_compiled.models.er import ER
from mammoth_compiled.registry import register_model
from mammoth_compiled.types import Batch

# Score of images that there is nothing to compare with.
INITIAL_SCORE = 0.1


@register_model("gss")
class GSS(ER):
    """ER whose buffer prefers images with gradients unlike those of other stored images."""

    DEFAULTS: ClassVar[dict[str, Settings]] = {
        **published(
            {
                "seq-cifar10": {"lr": 0.03, "gss_minibatch_size": 32},
                "seq-cifar100": {"lr": 0.03, "source": OWN},
                "seq-mnist": {
                    "lr": 0.1,
                    "batch_size": 128,
                    "minibatch_size": (10, 10, 128),
                    "gss_minibatch_size": 10,
                },
                "perm-mnist": {
                    "lr": (0.1, 0.2, 0.03),
                    "minibatch_size": (128, 10, 128),
                    "gss_minibatch_size": (10, 128, 10),
                },
                "rot-mnist": {
                    "lr": 0.2,
                    "minibatch_size": (128, 10, 128),
                    "gss_minibatch_size": 128,
                },
            }
        ),
        **fmnist(),
    }

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Adds `--buffer_size`, `--minibatch_size` and `--gss_minibatch_size`."""
        add_rehearsal_args(parser)
        parser.add_argument(
            "--gss_minibatch_size",
            type=positive_int,
            default=10,
            metavar="N",
            help="Stored images that new ones are compared with.",
        )
        return parser

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.buffer.add_column("scores")

    def net_batch_sizes(self) -> set[int]:
        """Returns the sizes of the batches of ER and of those whose gradients are compared."""
        return {*super().net_batch_sizes(), self.args.batch_size + self.args.gss_minibatch_size}

    def after_step(self, batch: Batch) -> None:
        """Stores the images of the batch while there is room, then lets them compete."""
        rows = {"examples": batch.not_aug_inputs, "labels": batch.labels}
        rows["scores"] = self.score(batch)
        free = max(self.buffer.buffer_size - self.buffer.num_seen_examples, 0)
        if free:
            self.buffer.add_data(**{name: value[:free] for name, value in rows.items()})
        if free < len(batch.labels):
            self.compete({name: value[free:] for name, value in rows.items()})

    def score(self, batch: Batch) -> torch.Tensor:
        """Returns 1 plus the largest similarity to some stored images, in [0, 2], [B]."""
        images, labels, size = batch.not_aug_inputs, batch.labels, len(batch.labels)
        if self.buffer.is_empty():
            return torch.full((size,), INITIAL_SCORE, device=self.device)
        stored = self.buffer.get_data(self.args.gss_minibatch_size, device=self.device)
        images, labels = torch.cat((images, stored[0])), torch.cat((labels, stored[1]))
        was_training = self.net.training
        self.net.eval()
        inputs = normalized(self, images)
        logits, features = self.net(inputs, returnt="both")
        self.net.train(was_training)
        return 1 + gradient_similarity(logits, features, labels, size).amax(1)

    def compete(self, rows: dict[str, torch.Tensor]) -> None:
        """Lets new images replace rows of the full buffer.

        Args:
            rows: `examples`, `labels` and `scores` of the new images, [n, ...].
        """
        new = rows["scores"]
        draws = torch.rand(2, len(new), device=self.device)
        cumulative = self.buffer.scores.cumsum(0)
        rivals = torch.searchsorted(cumulative, draws[0] * cumulative[-1])
        rivals = rivals.clamp(max=self.buffer.buffer_size - 1)
        old = self.buffer.scores[rivals]
        wins = (new < 1) & (draws[1] * (old + new) < old)
        slots = torch.where(wins, rivals, -1)
        owners = slot_owners(slots, self.buffer.buffer_size)
        for name, value in rows.items():
            write_slots(getattr(self.buffer, name), value, slots, owners)
        self.buffer.num_seen_examples += len(new)
