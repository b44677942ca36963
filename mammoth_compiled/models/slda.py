"""Deep Streaming Linear Discriminant Analysis.

Source: Hayes and Kanan 2020, "Lifelong Machine Learning with Deep Streaming Linear Discriminant
Analysis", arXiv 1909.01520.

With means mu_k, the covariance S and `L = ((1 - eps) S + eps I)^-1`, the score of class k is `mu_k
L x - mu_k L mu_k / 2`.

Deviations: means and covariance are updated by batch with the exact pooled formula, so that they do
not depend on the order of the images; the paper's covariance uses running means. The base
initialization is training on the first task, and its covariance is not shrunk (OAS).
"""

from argparse import ArgumentParser
from typing import Any, ClassVar

import torch
from torch import nn

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.config import boolean
from mammoth_compiled.config.values import fraction
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.models.base import ContinualModel, Parameters, Settings
from mammoth_compiled.models.common.discriminant import StreamingDiscriminant
from mammoth_compiled.models.common.features import feature_dim, images_of_task, plain_features
from mammoth_compiled.models.networks.scored import linear_classifier
from mammoth_compiled.registry import register_model
from mammoth_compiled.types import Batch

_SETTING = {"source": "Hayes and Kanan 2020, arXiv 1909.01520 (shrinkage)"}


@register_model("slda")
class SLDA(ContinualModel):
    """Classifies frozen features by class means and one covariance, which learn in one pass.

    The backbone trains on the first task with cross entropy, unless `--base_training 0` takes it as
    it is, for example pretrained. From then on it is frozen, and each image is used once, in the
    first epoch of its task.

    Attributes:
        discriminant: Means and covariance.
    """

    DEFAULTS: ClassVar[dict[str, Settings]] = {
        name: {**_SETTING, "shrinkage": 1e-4}
        for name in ("seq-cifar10", "seq-cifar100", "seq-mnist", "seq-fmnist", "seq-fmnist-mini")
    }

    is_first_epoch: torch.Tensor

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Adds `--shrinkage` (eps) and `--base_training`."""
        parser.add_argument(
            "--shrinkage", type=fraction, default=1e-4, help="Weight of the identity in S."
        )
        parser.add_argument(
            "--base_training",
            type=boolean,
            default=True,
            help="Train the backbone on the first task; 0 freezes it from the start.",
        )
        return parser

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        discriminant = StreamingDiscriminant(self.num_classes, feature_dim(self))
        self.discriminant = discriminant.to(self.device)
        flag = torch.zeros((), dtype=torch.float64, device=self.device)
        self.register_buffer("is_first_epoch", flag)
        # Backward needs a parameter, also where none of the backbone's may get a gradient.
        self.unused = nn.Parameter(torch.zeros((), device=self.device))
        self.opt = self.get_optimizer()

    def get_parameters(self) -> Parameters:
        """Returns the parameters of the backbone and an unused one."""
        return self.parameters()

    def _trains(self) -> bool:
        return bool(self.args.base_training) and self.dataset.c_task == 0

    def _has_statistics(self) -> bool:
        return self._task_ended or not self._trains()

    def begin_task(self, dataset: ContinualDataset) -> None:
        """Freezes the backbone's running statistics, unless it trains."""
        self.net.train(self._trains())

    def begin_epoch(self, epoch: int, dataset: ContinualDataset) -> None:
        """Notes whether the images of the epoch are new."""
        self.is_first_epoch.fill_(epoch == 0)

    def training_loss(self, batch: Batch) -> torch.Tensor:
        """Returns the cross entropy in the first task, else 0, 0-d."""
        if self._trains():
            return self.loss(self.net(batch.inputs), batch.labels)
        return 0 * self.unused

    def after_step(self, batch: Batch) -> None:
        """Adds the batch to the statistics, unless the backbone trains."""
        if not self._trains():
            self._learn(batch.not_aug_inputs, batch.labels, self.is_first_epoch)

    @torch.no_grad()
    def end_task(self, dataset: ContinualDataset) -> None:
        """Computes the statistics of the first task with the trained backbone."""
        if not self._trains():
            return
        self.net.eval()
        for images, labels in images_of_task(dataset, self.args.batch_size):
            self._learn(images, labels, torch.ones_like(self.is_first_epoch))

    def _learn(self, images: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor) -> None:
        self.discriminant.update(plain_features(self, images), labels, weight)

    def classifier(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns weights, [F, K], and biases, [K], of the linear classifier."""
        state = (self.dataset.c_task, self.counters.task, self._task_ended)
        return self.discriminant.classifier(self.args.shrinkage, state)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the scores of the classes, [B, K]; -inf for one without images.

        While the backbone trains these are the logits.
        """
        if not self._has_statistics():
            return super().forward(x)
        weights, biases = self.classifier()
        features = self.net(x, returnt="features").double()
        return (features @ weights + biases).float()

    def deployed_net(self) -> MammothBackbone:
        """Returns the backbone with the linear classifier, in float32."""
        if not self._has_statistics():
            return self.net
        return linear_classifier(self.net, *self.classifier())
