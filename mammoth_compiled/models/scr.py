"""Supervised Contrastive Replay.

Source: Mai et al. 2021, "Supervised Contrastive Replay: Revisiting the Nearest Class Mean
Classifier in Online Class-Incremental Continual Learning", arXiv 2103.13885.

The loss is `-mean_i mean_{p in P(i)} log(exp(z_i . z_p / T) / sum_{a != i} exp(z_i . z_a / T))`
over two views of stream and replay (eq. 5), where P(i) are the other images of the class of i. The
score of class k is `-|| f(x) - mu_k ||^2` with normalized features f.

Deviations: no review of the buffer at the end of a task; the hidden layer of the projection is as
wide as the features, but not wider than those of a ResNet-18.
"""

from argparse import ArgumentParser
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from mammoth_compiled.config import positive_float
from mammoth_compiled.data import apply_transform
from mammoth_compiled.models.base import Parameters, Settings
from mammoth_compiled.models.common.contrast import contrastive_loss, strong_view
from mammoth_compiled.models.common.features import feature_dim, normalized, outputs
from mammoth_compiled.models.common.nearest_mean import Means, NearestMeanModel
from mammoth_compiled.models.common.settings import fmnist
from mammoth_compiled.registry import register_model
from mammoth_compiled.types import Batch

PROJECTION_DIM = 128
MAX_HIDDEN = 512
_ONLINE = {
    "lr": 0.1,
    "n_epochs": 1,
    "batch_size": 10,
    "minibatch_size": 100,
    "source": "Mai et al. 2021, arXiv 2103.13885, the authors' settings",
}


@register_model("scr")
class SCR(NearestMeanModel):
    """Learns features by contrast and classifies by the nearest mean of stored images.

    Each step contrasts the stream and a replay batch, and a strongly augmented view of both, after
    a projection. Classes are predicted by the distance of normalized features to class means over
    the buffer. The backbone's own classifier is not trained.
    """

    DEFAULTS: ClassVar[dict[str, Settings]] = {
        "seq-cifar10": {**_ONLINE, "buffer_size": 200},
        "seq-cifar100": {**_ONLINE, "buffer_size": 2000},
        "seq-mnist": {**_ONLINE, "buffer_size": 200},
        **fmnist(),
    }

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Adds the buffer's arguments and `--temperature`."""
        NearestMeanModel.get_parser(parser)
        parser.add_argument(
            "--temperature",
            type=positive_float,
            default=0.1,
            help="Temperature of the contrastive loss.",
        )
        return parser

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        width = feature_dim(self)
        hidden = min(width, MAX_HIDDEN)
        self.projection = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, PROJECTION_DIM)
        ).to(self.device)
        self.opt = self.get_optimizer()
        # Means of the classes, and the number of images that the stream had offered by then.
        self._means: tuple[int, Means] | None = None

    def get_parameters(self) -> Parameters:
        """Returns the parameters of the backbone and of the projection."""
        return self.parameters()

    def net_batch_sizes(self) -> set[int]:
        """Returns the size of the two views of stream and replay batch."""
        return {2 * (self.args.batch_size + self.args.minibatch_size)}

    def training_loss(self, batch: Batch) -> torch.Tensor:
        """Returns the contrastive loss of two views of stream and replay batch, 0-d."""
        inputs, labels, images = batch.inputs, batch.labels, batch.not_aug_inputs
        if not self.buffer.is_empty():
            replay = self.buffer.get_data(self.args.minibatch_size, device=self.device)
            inputs = torch.cat((inputs, apply_transform(replay[0], self.transform)))
            images = torch.cat((images, replay[0]))
            labels = torch.cat((labels, replay[1]))
        views = torch.cat((inputs, normalized(self, strong_view(images))))
        projected = self.projection(self.net(views, returnt="features"))
        return contrastive_loss(F.normalize(projected), labels.repeat(2), self.args.temperature)

    @torch.no_grad()
    def class_means(self) -> Means | None:
        """Returns the means of stored images, which change with the buffer; None if it is empty."""
        if self.buffer.is_empty():
            return None
        if self._means is None or self._means[0] != self.buffer.num_seen_examples:
            images, labels, *_ = self.buffer.get_all_data(device=self.device)
            features = F.normalize(outputs(self, images, "features"))
            sums = features.new_zeros(self.num_classes, features.shape[1])
            sums.index_add_(0, labels, features)
            has_mean = labels.new_zeros(self.num_classes).bool().index_fill(0, labels, True)
            self._means = self.buffer.num_seen_examples, (F.normalize(sums), has_mean)
        return self._means[1]
