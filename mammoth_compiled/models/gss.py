"""Gradient-based Sample Selection, the greedy variant.

Source: Aljundi et al. 2019, "Gradient Based Sample Selection for Online Continual Learning", arXiv
1903.08671, algorithm 2.

Deviations: gradients are those of the classification layer, whose cosine similarity has a closed
form; all images of a batch are decided at once, each with the scores before the batch.
"""

from argparse import ArgumentParser
from typing import Any, ClassVar

import torch
from torch.nn import functional as F

from mammoth_compiled.config import add_rehearsal_args, positive_int
from mammoth_compiled.data import apply_transform
from mammoth_compiled.kernels.reservoir.reference import slot_owners, write_slots
from mammoth_compiled.models.base import Settings
from mammoth_compiled.models.common.settings import (
    CIFAR10,
    CIFAR100,
    DER,
    DOMAINS,
    OWN,
    by_buffer,
    fmnist,
)
from mammoth_compiled.models.er import ER
from mammoth_compiled.registry import register_model
from mammoth_compiled.types import Batch

# Score of images that there is nothing to compare with.
INITIAL_SCORE = 0.1


def gradient_similarity(
    logits: torch.Tensor, features: torch.Tensor, labels: torch.Tensor, num_first: int
) -> torch.Tensor:
    """Returns cosines between the gradients of a linear classifier's parameters, [n, m].

    The gradient of the cross entropy of one image is the outer product of softmax(z) - onehot(y)
    and (f, 1). The cosine of two outer products is the product of the cosines of their factors.

    Args:
        logits: z, [n + m, K].
        features: f, the inputs of the classifier, [n + m, F].
        labels: Class ids y, int64, [n + m].
        num_first: n; the first n images are compared with the other m.
    """
    # Not one_hot, which reads labels on the host.
    error = logits.softmax(1).scatter_add(1, labels[:, None], -torch.ones_like(logits[:, :1]))
    inputs = F.pad(features, (0, 1), value=1.0)
    result = torch.ones((), device=logits.device)
    for factor in (F.normalize(error), F.normalize(inputs)):
        result = result * (factor[:num_first] @ factor[num_first:].T)
    return result


@register_model("gss")
class GSS(ER):
    """ER whose buffer prefers images with gradients unlike those of other stored images.

    The score of an image is 1 plus its largest cosine similarity to some stored images, in terms of
    gradients. Once the buffer is full, an image with a score c < 1 competes with a row drawn with
    probability s_i / sum s and replaces it with probability s_i / (s_i + c).
    """

    DEFAULTS: ClassVar[dict[str, Settings]] = {
        "seq-cifar10": {
            "lr": 0.03,
            "buffer_size": 500,
            "gss_minibatch_size": 32,
            **CIFAR10,
            "source": DER,
        },
        "seq-cifar100": {"lr": 0.03, "buffer_size": 500, **CIFAR100, "source": OWN},
        "seq-mnist": by_buffer(
            {
                500: {"minibatch_size": 10},
                200: {"minibatch_size": 10},
                5120: {"minibatch_size": 128},
            },
            lr=0.1,
            gss_minibatch_size=10,
            n_epochs=1,
            batch_size=128,
            source=DER,
        ),
        "perm-mnist": by_buffer(
            {
                500: {"lr": 0.1, "minibatch_size": 128, "gss_minibatch_size": 10},
                200: {"lr": 0.2, "minibatch_size": 10, "gss_minibatch_size": 128},
                5120: {"lr": 0.03, "minibatch_size": 128, "gss_minibatch_size": 10},
            },
            **DOMAINS,
            source=DER,
        ),
        "rot-mnist": by_buffer(
            {
                500: {"minibatch_size": 128},
                200: {"minibatch_size": 10},
                5120: {"minibatch_size": 128},
            },
            lr=0.2,
            gss_minibatch_size=128,
            **DOMAINS,
            source=DER,
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
        inputs = apply_transform(images, getattr(self, "normalization_transform", None))
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
