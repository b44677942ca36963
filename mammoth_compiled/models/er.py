"""Experience Replay.

Source: Ratcliff 1990; Riemer et al. 2019, arXiv 1810.11910; the form of Buzzega et al. 2020,
arXiv 2004.07211.

The loss is `CE([z, z_r], [y, y_r])`: the mean over a stream batch and a batch drawn from the
buffer.
"""

from typing import ClassVar

import torch

from mammoth_compiled.models.base import Settings
from mammoth_compiled.models.common.rehearsal import RehearsalModel
from mammoth_compiled.models.common.settings import EVERY_SETTING, fmnist, published
from mammoth_compiled.registry import register_model
from mammoth_compiled.types import Batch


@register_model("er")
class ER(RehearsalModel):
    """Experience Replay: trains on the stream batch and a batch of stored images together."""

    COMPATIBILITY: ClassVar[list[str]] = EVERY_SETTING
    HAS_LOSSES: ClassVar[bool] = True
    DEFAULTS: ClassVar[dict[str, Settings]] = {
        **published(
            {
                "seq-cifar10": {"lr": 0.1},
                "seq-cifar100": {"lr": 0.1},
                "seq-tinyimg": {"lr": (0.03, 0.1, 0.1)},
                "seq-mnist": {"lr": (0.1, 0.01, 0.1)},
                "perm-mnist": {"lr": 0.2, "minibatch_size": 128},
                "rot-mnist": {"lr": 0.2, "minibatch_size": 128},
                "mnist-360": {"lr": 0.2, "batch_size": (1, 1, 4), "minibatch_size": 16},
            }
        ),
        **fmnist(),
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
        return self.mean_loss(batch, self.net(inputs), labels)

    def replay(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the images to replay beside a batch, [M, C, H, W], and their labels, [M]."""
        images, labels, *_ = self.replay_rows(batch)
        return images, labels

    def net_batch_sizes(self) -> set[int]:
        """Returns the sizes of the stream batch alone and with the replay batch."""
        stream = self.args.batch_size
        return {stream, stream + self.args.minibatch_size}
