"""Bias Correction (BiC).

Source: Wu et al. 2019, "Large Scale Incremental Learning", arXiv 1905.13260.

With P old classes of K seen and `lambda = P / K`, the loss on stream and stored images is `lambda
H(softmax(z_old / T), softmax(z / T)) + (1 - lambda) CE(z, y)` (eq. 3; T = 2, without the factor
T^2). After the task, `q_k = alpha z_k + beta` for its classes is fitted on held-out images, of
which each class has equally many (eq. 4 and 5).

Deviations: stored images form a mini-batch beside that of the stream, as in ER, and are chosen at
random. The bias is fitted with L-BFGS on all validation images at once, and alpha - 1 and beta have
a standard normal prior, which keeps them finite if few images separate the classes.
"""

from typing import Any, ClassVar

import torch

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.models.base import Settings
from mammoth_compiled.models.common.bias import fit_bias
from mammoth_compiled.models.common.features import outputs
from mammoth_compiled.models.common.settings import OWN, fmnist, published
from mammoth_compiled.models.common.teacher import distillation_loss, update_teacher
from mammoth_compiled.models.common.validated import ValidatedReplayModel
from mammoth_compiled.models.networks.scored import CorrectedNet
from mammoth_compiled.registry import register_model
from mammoth_compiled.types import Batch

TEMPERATURE = 2.0


@register_model("bic")
class BiC(ValidatedReplayModel):
    """Distills the network before the task, then corrects the bias toward the new classes.

    The correction is fitted on the validation images.

    Attributes:
        alpha: Factor of each logit, [K].
        beta: Offset of each logit, [K].
        teacher: The network after the previous task; None in the first one.
    """

    DEFAULTS: ClassVar[dict[str, Settings]] = {
        **published({"seq-cifar10": {"lr": 0.03, "source": OWN}, "seq-cifar100": {"lr": 0.03}}),
        "seq-mnist": {"buffer_size": 500, "source": OWN},
        **fmnist(),
    }

    alpha: torch.Tensor
    beta: torch.Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.teacher: MammothBackbone | None = None
        self.register_buffer("alpha", torch.ones(self.num_classes, device=self.device))
        self.register_buffer("beta", torch.zeros(self.num_classes, device=self.device))

    def net_batch_sizes(self) -> set[int]:
        """Returns the sizes of the stream batch alone and with the replay batch."""
        return {self.args.batch_size, self.args.batch_size + self.args.minibatch_size}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns corrected logits, [B, K]."""
        return self._correct(self.net(x))

    def deployed_net(self) -> MammothBackbone:
        """Returns the backbone with corrected logits."""
        return CorrectedNet(self.net, self.alpha, self.beta)

    def _correct(self, logits: torch.Tensor) -> torch.Tensor:
        return self.alpha * logits + self.beta

    def training_loss(self, batch: Batch) -> torch.Tensor:
        """Returns the weighted sum of distillation and cross entropy, 0-d (eq. 3)."""
        inputs, labels = batch.inputs, batch.labels
        first, end = self.dataset.get_offsets()
        if not self.buffer.is_empty():
            replay = self.buffer.get_data(
                self.args.minibatch_size, self.transform, device=self.device
            )
            inputs, labels = torch.cat((inputs, replay[0])), torch.cat((labels, replay[1]))
        logits = self._correct(self.net(inputs))
        loss = self.loss(logits[:, :end], labels)
        if self.teacher is None:
            return loss
        with torch.no_grad():
            teacher = self._correct(self.teacher(inputs))
        weight = first / end
        distillation = distillation_loss(logits[:, :first], teacher[:, :first], TEMPERATURE)
        return weight * distillation + (1 - weight) * loss

    def end_task(self, dataset: ContinualDataset) -> None:
        """Fits the bias, and stores images and the network for the next task."""
        first, end = dataset.get_offsets()
        self.store_validation()
        if first > 0:
            examples, labels = self.validation.get_all_data(device=self.device)
            logits = self._correct(outputs(self, examples))
            alpha, beta = fit_bias(logits[:, :end], labels, first)
            self.alpha[first:end], self.beta[first:end] = alpha, beta
        update_teacher(self)
        super().end_task(dataset)
