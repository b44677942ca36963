"""GDumb.

Source: Prabhu et al. 2020, "GDumb: A Simple Approach that Questions Our Progress in Continual
Learning", ECCV 2020.

The stream only fills a class-balanced buffer. After each task a network is trained from its initial
weights on the buffer alone. An epoch is one pass over the buffer: `--n_epochs 256` as in the paper.

The learning rate of epoch 0 is `lr / 10`; then it decays from `lr` to `minlr` along half a cosine,
again and again in 1, 2, 4, ... epochs (Loshchilov and Hutter 2017, arXiv 1608.03983). CutMix is
applied to a batch with probability `cutmix_prob` and a ratio uniform in [0, 1] (alpha = 1).

Deviation: a class that holds its share replaces its own samples by reservoir sampling, where the
greedy sampler drops new ones (see `buffers.policies.class_balanced`).
"""

import math
from argparse import ArgumentParser
from typing import Any, ClassVar

import torch

from mammoth_compiled.checkpoint import load_copy
from mammoth_compiled.config import non_negative_float
from mammoth_compiled.config.values import probability
from mammoth_compiled.datasets.base import EVAL_BATCH_SIZE, ContinualDataset
from mammoth_compiled.models.base import Settings
from mammoth_compiled.models.common.cutmix import cutmix
from mammoth_compiled.models.common.exemplars import ExemplarModel
from mammoth_compiled.models.common.rehearsal import gather_batch
from mammoth_compiled.models.common.settings import EVERY_SETTING, OWN, fmnist
from mammoth_compiled.registry import register_model
from mammoth_compiled.types import Batch

_CIFAR = {
    "lr": 0.05,
    "buffer_size": 500,
    "n_epochs": 256,
    "batch_size": 16,
    "optim_wd": 1e-6,
    "clip_grad": 10.0,
    "cutmix_prob": 0.5,
    "source": "Prabhu et al. 2020, authors' code",
}


@register_model("gdumb")
class GDumb(ExemplarModel):
    """GDumb: trains from scratch on a class-balanced buffer after each task.

    Attributes:
        initial: The initial weights of the backbone, by name.
    """

    COMPATIBILITY: ClassVar[list[str]] = EVERY_SETTING
    POLICY: ClassVar[str] = "class-balanced"
    TRAINS_ON_STREAM: ClassVar[bool] = False
    EXAMPLE_ARGS: ClassVar[dict[str, Any]] = {"buffer_size": 60}
    DEFAULTS: ClassVar[dict[str, Settings]] = {
        "seq-cifar10": _CIFAR,
        "seq-cifar100": _CIFAR,
        "seq-mnist": {"lr": 0.05, "buffer_size": 500, "source": OWN},
        **fmnist(lr=0.05),
    }

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Adds the arguments of the buffer, the schedule and CutMix."""
        ExemplarModel.get_parser(parser)
        parser.add_argument(
            "--minlr",
            type=non_negative_float,
            default=5e-4,
            help="Smallest learning rate of GDumb's own schedule, which --lr_scheduler replaces.",
        )
        parser.add_argument(
            "--cutmix_prob",
            type=probability,
            default=0.0,
            help="Probability with which CutMix is applied to a batch; the paper's is 0.5.",
        )
        return parser

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial = {name: value.clone() for name, value in self.net.state_dict().items()}

    def begin_task(self, dataset: ContinualDataset) -> None:
        """Fills the buffer from the stream and resets the network and the optimizer."""
        loader = dataset.train_loader
        for index in torch.randperm(len(loader.dataset)).split(EVAL_BATCH_SIZE):
            batch = gather_batch(loader, index)
            self.buffer.add_data(batch.not_aug_inputs, **self._rows(batch))
        self.use_stored_images(dataset)
        loader.shuffle = True  # a stream without tasks comes in order
        load_copy(self.net, self.initial)
        self.opt = self.get_optimizer()

    def begin_epoch(self, epoch: int, dataset: ContinualDataset) -> None:
        """Sets the learning rate."""
        if self.args.lr_scheduler == "none":
            for group in self.opt.param_groups:
                group["lr"] = learning_rate(epoch, self.args.lr, self.args.minlr)

    def training_loss(self, batch: Batch) -> torch.Tensor:
        """Returns the loss of the batch, mixed by CutMix if asked for, 0-d."""
        if not self.args.cutmix_prob:
            return self.loss(self.net(batch.inputs), batch.labels)
        inputs, labels, share = cutmix(batch.inputs, batch.labels, self.args.cutmix_prob)
        logits = self.net(inputs)
        return share * self.loss(logits, batch.labels) + (1 - share) * self.loss(logits, labels)


def learning_rate(epoch: int, highest: float, lowest: float) -> float:
    """Returns the learning rate of an epoch, counted from 0.

    Example:
        >>> [round(learning_rate(epoch, 1.0, 0.0), 3) for epoch in range(9)]
        [0.1, 1.0, 1.0, 0.5, 1.0, 0.854, 0.5, 0.146, 1.0]
    """
    if epoch == 0:
        return highest / 10
    period = 2 ** int(math.log2(epoch))
    return lowest + (highest - lowest) * (1 + math.cos(math.pi * (epoch - period) / period)) / 2
