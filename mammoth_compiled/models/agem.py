"""Averaged Gradient Episodic Memory.

Source: Chaudhry et al. 2019, "Efficient Lifelong Learning with A-GEM", arXiv 1812.00420.

Deviation: the reference gradient is that of a replay batch from a buffer which the whole stream
fills, the current task included, as in A-GEM-R of Buzzega et al. 2020, arXiv 2004.07211; it thus
needs no task boundaries. The paper keeps images of earlier tasks only.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch

from mammoth_compiled.models.base import Settings
from mammoth_compiled.models.rehearsal import RehearsalModel
from mammoth_compiled.registry import register_model
from mammoth_compiled.types import Batch

_SOURCE = "Buzzega et al. 2020, arXiv 2004.07211, appendix F"


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

    COMPATIBILITY: ClassVar[list[str]] = [
        "class-il",
        "task-il",
        "domain-il",
        "general-continual",
    ]
    DEFAULTS: ClassVar[dict[str, Settings]] = {
        "seq-cifar10": {
            "lr": 0.03,
            "buffer_size": 500,
            "n_epochs": 50,
            "batch_size": 32,
            "source": _SOURCE,
        },
        "seq-cifar100": {"lr": 0.03, "buffer_size": 500, "n_epochs": 50, "batch_size": 32},
        "seq-tinyimg": {
            "lr": 0.01,
            "buffer_size": 500,
            "n_epochs": 100,
            "batch_size": 32,
            "source": _SOURCE,
        },
        "seq-mnist": {
            "lr": 0.1,
            "buffer_size": 500,
            "batch_size": 10,
            "minibatch_size": 128,
            "source": _SOURCE,
        },
        "perm-mnist": {
            "lr": 0.1,
            "buffer_size": 500,
            "batch_size": 128,
            "minibatch_size": 128,
            "source": _SOURCE,
        },
        "rot-mnist": [
            {
                "lr": lr,
                "buffer_size": size,
                "batch_size": 128,
                "minibatch_size": 128,
                "source": _SOURCE,
            }
            for size, lr in ((500, 0.3), (200, 0.1), (5120, 0.3))
        ],
        "mnist-360": {
            "lr": 0.1,
            "buffer_size": 500,
            "batch_size": 16,
            "minibatch_size": 128,
            "source": "Mammoth, utils/best_args.py (A-GEM-R)",
        },
        "seq-fmnist": {"buffer_size": 500},
        "seq-fmnist-mini": {"buffer_size": 500},
    }

    def training_loss(self, batch: Batch) -> torch.Tensor:
        """Returns the loss of the batch, 0-d."""
        return self.loss(self.net(batch.inputs), batch.labels)

    def after_backward(self, batch: Batch) -> None:
        """Projects the gradients with those of a replay batch as reference."""
        if self.buffer.is_empty():
            return
        inputs, labels = self.buffer.get_data(
            self.args.minibatch_size, self.transform, device=self.device
        )[:2]
        parameters = [p for p in self.net.parameters() if p.grad is not None]
        with torch.enable_grad():
            loss = self.loss(self.net(inputs), labels)
            reference = torch.autograd.grad(loss, parameters, materialize_grads=True)
        self.average_over_ranks(reference)
        project([p.grad for p in parameters if p.grad is not None], reference)

    def net_batch_sizes(self) -> set[int]:
        """Returns the sizes of the stream batch and of a replay batch."""
        return {self.args.batch_size, self.args.minibatch_size}

    def stored(self, batch: Batch) -> dict[str, torch.Tensor | None]:
        """Returns the labels."""
        return {"labels": batch.labels}
