"""Experience Replay with asymmetric cross-entropy.

Source: Caccia et al. 2022, "New Insights on Reducing Abrupt Representation Change in Online
Continual Learning", arXiv 2104.05025.

The loss is `CE(mask(z_s), y_s) + CE(z_r, y_r)` for stream logits z_s and replayed logits z_r. The
mask removes every class that was seen before and is not in the stream batch, so that learning new
classes does not push the old ones away; only replay does.

Deviations: the head is that of the backbone, not a cosine classifier. Masking and replay need no
task boundaries and start with the first step; Mammoth's start with the second task.
"""

from typing import Any, ClassVar

import torch

from mammoth_compiled.models.base import Settings
from mammoth_compiled.models.common.rehearsal import RehearsalModel
from mammoth_compiled.models.common.settings import DER, EVERY_SETTING, OWN, fmnist, published
from mammoth_compiled.registry import register_model
from mammoth_compiled.types import Batch


@register_model("er-ace")
class ERACE(RehearsalModel):
    """ER-ACE: stream images compete with classes of their batch and new classes only.

    Attributes:
        seen: Classes of all batches so far, bool, [K].
    """

    COMPATIBILITY: ClassVar[list[str]] = EVERY_SETTING
    HAS_LOSSES: ClassVar[bool] = True
    DEFAULTS: ClassVar[dict[str, Settings]] = {
        **published(
            {
                "seq-cifar10": {"lr": 0.03, "source": f"the protocol of {DER}"},
                "seq-cifar100": {"lr": 0.03},
            }
        ),
        "seq-mnist": {"buffer_size": 500, "source": OWN},
        **fmnist(),
    }

    seen: torch.Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        seen = torch.zeros(self.num_classes, dtype=torch.bool, device=self.device)
        self.register_buffer("seen", seen)

    def training_loss(self, batch: Batch) -> torch.Tensor:
        """Returns the masked loss of the stream plus the loss of the replayed images, 0-d."""
        logits = self.net(batch.inputs)
        hidden = self.seen & ~self._present(batch.labels)
        lowest = torch.finfo(logits.dtype).min
        loss = self.mean_loss(batch, logits.masked_fill(hidden, lowest), batch.labels)
        if not self.buffer.is_empty():
            images, labels, *_ = self.replay_rows(batch)
            loss = loss + self.mean_loss(batch, self.net(images), labels)
        return loss

    def net_batch_sizes(self) -> set[int]:
        """Returns the sizes of the stream batch and of a replay batch."""
        return {self.args.batch_size, self.args.minibatch_size}

    def after_step(self, batch: Batch) -> None:
        """Offers the batch to the buffer and marks its classes as seen."""
        super().after_step(batch)
        self.seen |= self._present(batch.labels)

    def _present(self, labels: torch.Tensor) -> torch.Tensor:
        """Returns which classes occur among labels, bool, [K]."""
        return torch.zeros_like(self.seen).scatter_(0, labels, True)
