"""X-DER with cross entropy: dark experience replay that updates the stored logits.

Source: Boschini et al. 2022, "Class-Incremental Continual Learning into the eXtended DER-verse",
arXiv 2201.00766.

With P classes of earlier tasks and C those of the current one, the loss is `CE(z[C], y) + alpha
mean (z_r - z'_r)^2 + beta CE(z_s[P], y_s) + eta mean relu(max z[future] + m - max z[own task])`,
the last mean over images that violate the constraint. Stored logits z' of classes that come later
than the image are replaced by those of the network; see `UpdatedLogitsModel`.

Deviations: logits are stored in eval mode and without augmentation. Where the stored logit of the
true class is negative, it counts as 0, so that rescaling never changes signs. The stream and replay
batches update the running statistics of batch norm as in other methods.
"""

from argparse import ArgumentParser
from typing import Any, ClassVar

import torch
from torch.nn import functional as F

from mammoth_compiled.config import boolean, non_negative_float
from mammoth_compiled.models.base import Settings
from mammoth_compiled.models.common.settings import CIFAR100, OWN, XDER, fmnist
from mammoth_compiled.models.common.updated_logits import UpdatedLogitsModel
from mammoth_compiled.registry import register_model
from mammoth_compiled.types import Batch

_BEST = {"lr": 0.03, "buffer_size": 500, **CIFAR100, "alpha": 0.1, "beta": 0.5, "constr_eta": 0.005}


@register_model("xder-ce")
class XDERCE(UpdatedLogitsModel):
    """Replays logits, which are updated for classes that come later, and prepares future heads."""

    EXAMPLE_ARGS: ClassVar[dict[str, Any]] = {"buffer_size": 20, "alpha": 0.1, "beta": 0.5}
    DEFAULTS: ClassVar[dict[str, Settings]] = {
        "seq-cifar10": {**_BEST, "source": OWN},
        "seq-cifar100": {**_BEST, "source": f"{XDER}, as in Mammoth's xder_ce.yaml"},
        "seq-mnist": {"buffer_size": 500, "alpha": 0.1, "beta": 0.5, "source": OWN},
        **fmnist(alpha=0.1, beta=0.5),
    }

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Adds the arguments of the buffer and its logits, and the weights of the loss."""
        UpdatedLogitsModel.get_parser(parser)
        group = parser.add_argument_group("X-DER")
        for name, default, text in (
            ("alpha", None, "Weight of the mean squared error to stored logits."),
            ("beta", None, "Weight of the loss on replayed labels."),
            ("constr_eta", 0.1, "Weight of the constraint on logits of future classes."),
            ("constr_margin", 0.3, "Margin of that constraint."),
        ):
            group.add_argument(
                f"--{name}",
                type=non_negative_float,
                default=default,
                required=default is None,
                help=text,
            )
        group.add_argument(
            "--past_constraint",
            type=boolean,
            default=False,
            help="Constrain probabilities of past classes likewise, on the stream.",
        )
        return parser

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Whether two classes belong to one task, [K, K].
        offsets = map(self.dataset.get_offsets, range(self.n_tasks))
        ones = (torch.ones(end - first, end - first, device=self.device) for first, end in offsets)
        self._same_task = torch.block_diag(*ones).bool()

    def training_loss(self, batch: Batch) -> torch.Tensor:
        """Returns the sum of the terms, 0-d."""
        first, end = self.dataset.get_offsets()
        args = self.args
        logits = self.net(batch.inputs)
        loss = self.loss(logits[:, first:end], batch.labels - first)
        if args.past_constraint and first > 0:
            loss = loss + args.constr_eta * self.past_violation(logits, first, end)
        self._replayed = ()
        if not self.buffer.is_empty():
            self._replayed = self._draw(), self._draw()
            (_, _, stored, first_logits), (_, labels, _, second_logits) = self._replayed
            past = first or end
            loss = loss + args.alpha * F.mse_loss(first_logits, stored)
            loss = loss + args.beta * self.loss(second_logits[:, :past], labels)
        if end < self.num_classes:
            labels = torch.cat((batch.labels, *(draw[1] for draw in self._replayed)))
            logits = torch.cat((logits, *(draw[3] for draw in self._replayed)))
            loss = loss + args.constr_eta * self.future_violation(logits, labels, end)
        return loss

    def future_violation(
        self, logits: torch.Tensor, labels: torch.Tensor, end: int
    ) -> torch.Tensor:
        """Returns the mean violation of the constraint among those images that violate it, 0-d.

        Args:
            logits: [n, K].
            labels: Class ids, int64, [n].
            end: First class of the later tasks.
        """
        own = logits.masked_fill(~self._same_task[labels], -torch.inf).amax(1)
        return self._mean_violation(logits[:, end:].amax(1), own)

    def past_violation(self, logits: torch.Tensor, first: int, end: int) -> torch.Tensor:
        """Returns the mean violation of the same constraint by classes of earlier tasks, 0-d.

        It holds for probabilities of stream images, of which those of earlier tasks are constant.

        Args:
            logits: [B, K].
            first: First class of the task.
            end: First class of the later tasks.
        """
        probabilities = logits[:, :end].softmax(1)
        past = probabilities[:, :first].amax(1).detach()
        return self._mean_violation(past, probabilities[:, first:].amax(1))

    def _mean_violation(self, other: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        violation = (other + self.args.constr_margin - own).relu()
        return violation.sum() / (violation > 0).sum().clamp(min=1)
