"""Experience Replay.

Source: Ratcliff 1990; Riemer et al. 2019, arXiv 1810.11910; the form of Buzzega et al. 2020,
arXiv 2004.07211.
"""

from typing import ClassVar

import torch

from mammoth_compiled.models.base import Settings
from mammoth_compiled.models.rehearsal import RehearsalModel
from mammoth_compiled.registry import register_model
from mammoth_compiled.types import Batch

_DER = "Buzzega et al. 2020, arXiv 2004.07211, appendix F"
_XDER = "Boschini et al. 2022, arXiv 2201.00766"


@register_model("er")
class ER(RehearsalModel):
    """Experience Replay: trains on the stream batch and a batch of stored images together."""

    COMPATIBILITY: ClassVar[list[str]] = [
        "class-il",
        "task-il",
        "domain-il",
        "general-continual",
    ]
    DEFAULTS: ClassVar[dict[str, Settings]] = {
        "seq-cifar10": {
            "lr": 0.1,
            "buffer_size": 500,
            "n_epochs": 50,
            "batch_size": 32,
            "source": _DER,
        },
        "seq-cifar100": {
            "lr": 0.1,
            "buffer_size": 500,
            "n_epochs": 50,
            "batch_size": 32,
            "source": _XDER,
        },
        "seq-mnist": {"buffer_size": 500},
        "seq-fmnist": {"buffer_size": 500},
        "seq-fmnist-mini": {"buffer_size": 500},
    }

    def draw(self, batch: Batch) -> None:
        """Draws images and their labels, unless the buffer is empty."""
        batch.replay = {} if self.buffer.is_empty() else {"labels": self.replay(batch)}

    def training_loss(self, batch: Batch) -> torch.Tensor:
        """Returns the mean loss over the stream batch and the replayed images, 0-d."""
        inputs, labels = batch.inputs, batch.labels
        if batch.replay is None:
            self.draw(batch)
        for images, classes in (batch.replay or {}).values():
            inputs = torch.cat((inputs, images))
            labels = torch.cat((labels, classes))
        return self.loss(self.net(inputs), labels)

    def replay(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the images to replay beside a batch, [M, C, H, W], and their labels, [M]."""
        data = self.buffer.get_data(self.args.minibatch_size, self.transform, device=self.device)
        return data[0], data[1]

    def net_batch_sizes(self) -> set[int]:
        """Returns the sizes of the stream batch alone and with the replay batch."""
        stream = self.args.batch_size
        return {stream, stream + self.args.minibatch_size}

    def stored(self, batch: Batch) -> dict[str, torch.Tensor | None]:
        """Returns the labels."""
        return {"labels": batch.labels}
