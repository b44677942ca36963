"""Maximally Interfered Retrieval.

Source: Aljundi et al. 2019, "Online Continual Learning with Maximal Interfered Retrieval", arXiv
1908.04742, the replay variant (ER-MIR).

Of C stored images, those with the largest `l(x; th - lr g) - l(x; th)` are replayed, where g is the
gradient of the loss of the stream batch. The loss is that of ER.

Deviations: the losses that decide which images are replayed are computed in eval mode, so that they
do not change running statistics; replayed images are augmented like the stream.
"""

from argparse import ArgumentParser
from typing import Any, ClassVar

import torch
from torch.nn import functional as F

from mammoth_compiled.config import positive_int
from mammoth_compiled.models.base import Settings
from mammoth_compiled.models.common.settings import fmnist
from mammoth_compiled.models.er import ER
from mammoth_compiled.registry import register_model
from mammoth_compiled.types import Batch

_ONLINE = {
    "n_epochs": 1,
    "batch_size": 10,
    "minibatch_size": 10,
    "n_candidates": 50,
    "source": "Aljundi et al. 2019, arXiv 1908.04742, the authors' settings",
}


@register_model("mir")
class MIR(ER):
    """Replays those of several stored images whose loss the coming step would increase most."""

    EXAMPLE_ARGS: ClassVar[dict[str, Any]] = {**ER.EXAMPLE_ARGS, "n_candidates": 8}
    DEFAULTS: ClassVar[dict[str, Settings]] = {
        "seq-cifar10": {**_ONLINE, "lr": 0.1, "buffer_size": 500},
        "seq-cifar100": {**_ONLINE, "lr": 0.1, "buffer_size": 500},
        "seq-mnist": {**_ONLINE, "lr": 0.05, "buffer_size": 500},
        "perm-mnist": {**_ONLINE, "lr": 0.05, "buffer_size": 500},
        **fmnist(),
    }

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Adds the buffer's arguments and `--n_candidates`."""
        ER.get_parser(parser)
        parser.add_argument(
            "--n_candidates",
            type=positive_int,
            default=50,
            metavar="N",
            help="Stored images among which those to replay are selected.",
        )
        return parser

    @property
    def num_candidates(self) -> int:
        """Number of candidates, C: `--n_candidates`, or as many as the buffer can hold."""
        return min(self.args.n_candidates, self.buffer.buffer_size)

    def net_batch_sizes(self) -> set[int]:
        """Returns the sizes of the batches of ER and of the candidates."""
        return {*super().net_batch_sizes(), self.num_candidates}

    def replay(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the most interfered of several stored images, [M, C, H, W], and their labels."""
        candidates = self.num_candidates
        images, labels, *_ = self.replay_rows(batch, candidates)
        drawn = len(labels)
        if drawn < candidates:  # a constant size, so that no graph is compiled while it grows
            images = torch.cat((images, images.new_zeros(candidates - drawn, *images.shape[1:])))
            labels = torch.cat((labels, labels.new_zeros(candidates - drawn)))
        interference = self.interference(batch, images, labels)[:drawn]
        chosen = interference.topk(min(self.args.minibatch_size, drawn)).indices
        if batch.replayed is not None:
            batch.replayed = batch.replayed[chosen]
        return images[chosen], labels[chosen]

    @torch.no_grad()
    def interference(
        self, batch: Batch, images: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """Returns how much a step on the batch would increase the loss of each image, [C].

        Args:
            batch: Batch of the stream.
            images: Images as the network takes them, [C, ...].
            labels: Their class ids, int64, [C].
        """
        parameters = [p for p in self.net.parameters() if p.requires_grad]
        gradients = self._gradients(batch, parameters)
        lr = self.opt.param_groups[0]["lr"]
        was_training = self.net.training
        self.net.eval()
        before = F.cross_entropy(self.net(images), labels, reduction="none")
        weights = [p.clone() for p in parameters]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.sub_(lr * gradient)
        after = F.cross_entropy(self.net(images), labels, reduction="none")
        for parameter, weight in zip(parameters, weights, strict=True):
            parameter.copy_(weight)
        self.net.train(was_training)
        return after - before

    @torch.enable_grad()
    def _gradients(self, batch: Batch, parameters: list[Any]) -> tuple[torch.Tensor, ...]:
        """Returns the gradients of the stream's loss; running statistics stay as they are."""
        saved = [buffer.clone() for buffer in self.net.buffers()]
        loss = self.loss(self.net(batch.inputs), batch.labels)
        gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
        with torch.no_grad():
            for buffer, value in zip(self.net.buffers(), saved, strict=True):
                buffer.copy_(value)
        return gradients
