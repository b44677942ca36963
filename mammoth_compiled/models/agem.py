"""Averaged Gradient Episodic Memory.

Source: Chaudhry et al. 2019, "Efficient Lifelong Learning with A-GEM", arXiv 1812.00420.

The gradient g of the stream batch is corrected by the gradient r of a replay batch: if `g . r < 0`,
then `g <- g - (g . r / r . r) r` (eq. 11).

Deviation: the reference gradient is that of a replay batch from a buffer which the whole stream
fills, the current task included, as in A-GEM-R of Buzzega et al. 2020, arXiv 2004.07211; it thus
needs no task boundaries. The paper keeps images of earlier tasks only.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch

from mammoth_compiled.models.base import Settings
from mammoth_compiled.models.common.rehearsal import RehearsalModel
from mammoth_compiled.models.common.settings import EVERY_SETTING, MAMMOTH, OWN, fmnist, published
from mammoth_compiled.registry import register_model
from mammoth_compiled.types import Batch


@torch.no_grad()
def project(gradients: Sequence[torch.Tensor], reference: Sequence[torch.Tensor]) -> None:
    """Removes from gradients, in place, what would increase the reference loss (eq. 11).

    If g . r < 0, then g becomes g - (g . r / r . r) r.

    Args:
        gradients: g, one tensor per parameter.
        reference: r, likewise.

    Example:
        >>> import torch
        >>> gradient = torch.tensor([-1.0, 1.0])
        >>> project([gradient], [torch.tensor([2.0, 0.0])])
        >>> gradient
        tensor([0., 1.])
    """
    product = torch.stack([(g * r).sum() for g, r in zip(gradients, reference, strict=True)]).sum()
    norm = torch.stack([r.square().sum() for r in reference]).sum()
    # Without a branch, which would need the value on the host.
    factor = product.clamp(max=0) / norm.clamp(min=torch.finfo(norm.dtype).tiny)
    for gradient, r in zip(gradients, reference, strict=True):
        gradient.sub_(factor * r)


@register_model("agem")
class AGEM(RehearsalModel):
    """A-GEM: steps that must not increase the loss of a replay batch, to first order."""

    COMPATIBILITY: ClassVar[list[str]] = EVERY_SETTING
    HAS_LOSSES: ClassVar[bool] = True
    DEFAULTS: ClassVar[dict[str, Settings]] = {
        **published(
            {
                "seq-cifar10": {"lr": 0.03},
                "seq-cifar100": {"lr": 0.03, "source": OWN},
                "seq-tinyimg": {"lr": 0.01},
                "seq-mnist": {"lr": 0.1, "minibatch_size": 128},
                "perm-mnist": {"lr": 0.1, "minibatch_size": 128},
                "rot-mnist": {"lr": (0.3, 0.1, 0.3), "minibatch_size": 128},
                "mnist-360": {
                    "lr": 0.1,
                    "batch_size": (16, 16, 4),
                    "minibatch_size": 128,
                    "source": f"{MAMMOTH} (A-GEM-R)",
                },
            }
        ),
        **fmnist(),
    }

    def training_loss(self, batch: Batch) -> torch.Tensor:
        """Returns the loss of the batch, 0-d."""
        return self.mean_loss(batch, self.net(batch.inputs), batch.labels)

    def after_backward(self, batch: Batch) -> None:
        """Projects the gradients with those of a replay batch as reference."""
        if self.buffer.is_empty():
            return
        inputs, labels, *_ = self.replay_rows(batch)
        parameters = [p for p in self.net.parameters() if p.grad is not None]
        with torch.enable_grad():
            loss = self.mean_loss(batch, self.net(inputs), labels)
            reference = torch.autograd.grad(loss, parameters, materialize_grads=True)
        self.average_over_ranks(reference)
        project([p.grad for p in parameters if p.grad is not None], reference)

    def net_batch_sizes(self) -> set[int]:
        """Returns the sizes of the stream batch and of a replay batch."""
        return {self.args.batch_size, self.args.minibatch_size}
