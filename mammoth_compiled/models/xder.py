"""X-DER, with contrastive preparation of future heads.

Source: Boschini et al. 2022, "Class-Incremental Continual Learning into the eXtended DER-verse",
arXiv 2201.00766.

The loss is that of `xder_ce` plus `lambd mean_h SupCon(normalize(z[h]), y)` over the heads h of
future tasks, for V strongly augmented views of stream and stored images.

Deviations: those of `xder_ce`; no similarity-preserving distillation of future logits, which
Mammoth has as an option.
"""

from argparse import ArgumentParser
from typing import Any, ClassVar

import torch
from torch.nn import functional as F

from mammoth_compiled.config import non_negative_float, positive_float, positive_int
from mammoth_compiled.models.base import Settings
from mammoth_compiled.models.common import settings
from mammoth_compiled.models.common.contrast import contrastive_loss, strong_view
from mammoth_compiled.models.common.features import normalized
from mammoth_compiled.models.xder_ce import XDERCE
from mammoth_compiled.registry import register_model
from mammoth_compiled.types import Batch

_PROTOCOL = {"lr": 0.03, "buffer_size": 500, **settings.CIFAR100}
_BEST = {
    **_PROTOCOL,
    "alpha": 0.3,
    "beta": 0.8,
    "gamma": 0.85,
    "constr_margin": 0.7,
    "constr_eta": 0.001,
    "lambd": 0.05,
    "simclr_temp": 5.0,
    "simclr_batch_size": 64,
    "simclr_num_aug": 2,
    "source": f"{settings.XDER}, as in Mammoth's best_args.py",
}
_BEST_2000 = {"buffer_size": 2000, "alpha": 0.6, "beta": 0.9}
_BEST_2000 |= {"constr_margin": 0.2, "constr_eta": 0.01}


@register_model("xder")
class XDER(XDERCE):
    """X-DER: `xder-ce` plus a loss that makes each future head tell the present classes apart."""

    EXAMPLE_ARGS: ClassVar[dict[str, Any]] = {
        **XDERCE.EXAMPLE_ARGS,
        "simclr_batch_size": 8,
        "simclr_num_aug": 2,
    }
    DEFAULTS: ClassVar[dict[str, Settings]] = {
        "seq-cifar10": {**_PROTOCOL, "alpha": 0.3, "beta": 0.8, "source": settings.OWN},
        "seq-cifar100": [_BEST, {**_BEST, **_BEST_2000}],
        "seq-mnist": {"buffer_size": 500, "alpha": 0.3, "beta": 0.8, "source": settings.OWN},
        **settings.fmnist(alpha=0.3, beta=0.8),
    }

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Adds the arguments of `xder-ce` and those of the contrastive loss."""
        XDERCE.get_parser(parser)
        group = parser.add_argument_group("X-DER, contrastive loss")
        group.add_argument(
            "--lambd", type=non_negative_float, default=0.05, help="Weight of the contrastive loss."
        )
        group.add_argument(
            "--simclr_temp", type=positive_float, default=5.0, help="Temperature of that loss."
        )
        group.add_argument(
            "--simclr_batch_size",
            type=positive_int,
            default=64,
            metavar="N",
            help="Stored images that it uses beside the stream.",
        )
        group.add_argument(
            "--simclr_num_aug",
            type=positive_int,
            default=2,
            metavar="V",
            help="Views of each image.",
        )
        return parser

    def net_batch_sizes(self) -> set[int]:
        """Returns the sizes of the batches of `xder-ce`, and of views with and without replay."""
        stream, views = self.args.batch_size, self.args.simclr_num_aug
        contrast = {views * stream, views * (stream + self.args.simclr_batch_size)}
        return super().net_batch_sizes() | contrast

    def training_loss(self, batch: Batch) -> torch.Tensor:
        """Returns the loss of `xder-ce` plus lambda times the contrastive loss, 0-d."""
        loss = super().training_loss(batch)
        if self.dataset.get_offsets()[1] < self.num_classes:
            loss = loss + self.args.lambd * self.future_contrast(batch)
        return loss

    def future_contrast(self, batch: Batch) -> torch.Tensor:
        """Returns the mean contrastive loss of the future heads, 0-d."""
        images, labels, views = batch.not_aug_inputs, batch.labels, self.args.simclr_num_aug
        if not self.buffer.is_empty():
            stored = self.buffer.get_data(self.args.simclr_batch_size, device=self.device)
            images, labels = torch.cat((images, stored[0])), torch.cat((labels, stored[1]))
        with torch.no_grad():
            images = strong_view(images.repeat_interleave(views, 0))
            inputs = normalized(self, images)
        logits, labels = self.net(inputs), labels.repeat_interleave(views)
        terms = []
        for task in range(self.dataset.c_task + 1, self.n_tasks):
            head = slice(*self.dataset.get_offsets(task))
            terms.append(
                contrastive_loss(F.normalize(logits[:, head]), labels, self.args.simclr_temp)
            )
        return torch.stack(terms).mean()
