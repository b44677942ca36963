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

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.config.values import fraction
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.models.base import Settings
from mammoth_compiled.models.common.balanced import BalancedReplayModel
from mammoth_compiled.models.common.bias import fit_bias
from mammoth_compiled.models.common.features import outputs
from mammoth_compiled.models.common.held_out import hold_out
from mammoth_compiled.models.common.settings import OWN, fmnist, published
from mammoth_compiled.models.common.teacher import distillation_loss, update_teacher
from mammoth_compiled.models.networks.scored import CorrectedNet
from mammoth_compiled.registry import register_model
from mammoth_compiled.types import Batch

TEMPERATURE = 2.0


@register_model("bic")
class BiC(BalancedReplayModel):
    """Distills the network before the task, then corrects the bias toward the new classes.

    The images that the correction is fitted on are a part of the buffer and never trained on.

    Attributes:
        alpha: Factor of each logit, [K].
        beta: Offset of each logit, [K].
        teacher: The network after the previous task; None in the first one.
        validation: Validation images, a part of `--buffer_size`.
    """

    DEFAULTS: ClassVar[dict[str, Settings]] = {
        **published(
            {
                "seq-cifar10": {"lr": 0.03, "source": OWN},
                "seq-cifar100": {"lr": 0.03},
            }
        ),
        "seq-mnist": {"buffer_size": 500, "source": OWN},
        **fmnist(),
    }

    alpha: torch.Tensor
    beta: torch.Tensor

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Adds the buffer's arguments and `--valset_split`."""
        BalancedReplayModel.get_parser(parser)
        parser.add_argument(
            "--valset_split",
            type=fraction,
            default=0.1,
            help="Fraction of the buffer that holds validation images, at least one per class.",
        )
        return parser

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        size, classes = self.args.buffer_size, self.num_classes
        held_out = max(classes, int(self.args.valset_split * size))
        if held_out >= size:
            raise ConfigError(
                f"bic needs a validation image of each of {classes} classes and others to replay: "
                f"--buffer_size must be at least {classes + 1}, got {size}"
            )
        self.buffer = self.make_buffer(size - held_out)
        self.validation = self.make_buffer(held_out)
        self.teacher: MammothBackbone | None = None
        self.register_buffer("alpha", torch.ones(classes, device=self.device))
        self.register_buffer("beta", torch.zeros(classes, device=self.device))

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

    def begin_task(self, dataset: ContinualDataset) -> None:
        """Takes the validation images of the new classes out of the training set."""
        self._held_out = hold_out(dataset, self._quota(dataset.get_offsets()[1]))

    def _quota(self, num_seen: int) -> int:
        """Returns the validation images of each of so many classes."""
        return int(self.validation.buffer_size // num_seen)

    def epoch_sizes(self, sizes: Sequence[int]) -> list[int]:
        """Returns the images of each task without those held out, if its classes are balanced."""
        trained = []
        for task, size in enumerate(sizes):
            first, end = (0, self.num_classes) if self.dataset.joint else self.get_offsets(task)
            held_out = min(size // (end - first) // 2, self._quota(end))
            trained.append(size - (end - first) * held_out)
        return trained

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
        images, labels = self._held_out
        self.refill(self.validation, labels, lambda index: images[index])
        if first > 0:
            examples, labels = self.validation.get_all_data(device=self.device)
            logits = self._correct(outputs(self, examples))
            alpha, beta = fit_bias(logits[:, :end], labels, first)
            self.alpha[first:end], self.beta[first:end] = alpha, beta
        update_teacher(self)
        super().end_task(dataset)
