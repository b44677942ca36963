"""Bias Correction (BiC).

Source: Wu et al. 2019, "Large Scale Incremental Learning", arXiv 1905.13260.

Deviations: stored images form a mini-batch beside that of the stream, as in ER, and are chosen at
random. The bias is fitted with L-BFGS on all validation images at once, and alpha - 1 and beta have
a standard normal prior, which keeps them finite if few images separate the classes.
"""

from argparse import ArgumentParser
from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn import functional as F

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.config.values import fraction
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.datasets.splits import take_rows
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.models.base import Settings
from mammoth_compiled.models.common.balanced import BalancedReplayModel, rank_in_group, task_labels
from mammoth_compiled.models.common.features import outputs
from mammoth_compiled.models.common.settings import CIFAR10, CIFAR100, OWN, XDER, fmnist
from mammoth_compiled.models.common.teacher import distillation_loss, update_teacher
from mammoth_compiled.models.networks.scored import CorrectedNet
from mammoth_compiled.registry import register_model
from mammoth_compiled.types import Batch

TEMPERATURE = 2.0


def fit_bias(logits: torch.Tensor, labels: torch.Tensor, first: int) -> tuple[float, float]:
    """Fits q_k = alpha z_k + beta for new classes k, q_k = z_k for old ones (eq. 4 and 5).

    Args:
        logits: z of all classes seen, [n, P].
        labels: Class ids, int64, [n].
        first: First new class.

    Returns:
        alpha and beta of the largest posterior probability, a convex problem.
    """
    logits = logits.double()
    bias = torch.tensor([1.0, 0.0], dtype=torch.float64, device=logits.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        new = bias[0] * logits[:, first:] + bias[1]
        loss = F.cross_entropy(torch.cat((logits[:, :first], new), 1), labels)
        loss = loss + ((bias[0] - 1).square() + bias[1].square()) / (2 * len(labels))
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    alpha, beta = bias.tolist()
    return alpha, beta


@register_model("bic")
class BiC(BalancedReplayModel):
    """Distills the network before the task, then corrects the bias toward the new classes.

    With P old classes of K seen and lambda = P / K, the loss on stream and stored images is
    lambda * distillation + (1 - lambda) * cross entropy over classes seen. After the task, a linear
    correction of the new classes' logits is fitted on validation images, of which the buffer keeps
    equally many of every class and which are never trained on.

    Attributes:
        alpha: Factor of each logit, [K].
        beta: Offset of each logit, [K].
        teacher: The network after the previous task; None in the first one.
        validation: Validation images, a part of `--buffer_size`.
    """

    DEFAULTS: ClassVar[dict[str, Settings]] = {
        "seq-cifar10": {"lr": 0.03, "buffer_size": 500, **CIFAR10, "source": OWN},
        "seq-cifar100": {"lr": 0.03, "buffer_size": 500, **CIFAR100, "source": XDER},
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
        data = dataset.train_loader.dataset
        labels = task_labels(dataset)
        generator = torch.Generator().manual_seed(dataset.c_task)
        order = torch.randperm(len(labels), generator=generator).to(labels.device)
        rank = torch.empty_like(labels)
        rank[order] = rank_in_group(labels[order])
        quota = self.validation.buffer_size // dataset.get_offsets()[1]
        held_out = rank < (labels.bincount() // 2).clamp(max=quota)[labels]
        self._held_out = dataset.train_loader.gather(held_out.nonzero()[:, 0])[2], labels[held_out]
        keep = (~held_out).nonzero()[:, 0].cpu().numpy()
        data.data = take_rows(data.data, keep)
        for name in ("targets", "true_targets"):
            if hasattr(data, name):
                setattr(data, name, np.asarray(getattr(data, name))[keep])

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
