"""SLCA: slow learning of the backbone, and classifier alignment.

Source: Zhang et al. 2023, "SLCA: Slow Learner with Classifier Alignment for Continual Learning on a
Pre-trained Model", arXiv 2303.05118.

The backbone learns with `backbone_lr_ratio lr`, the head with lr. After a task, the head is trained
on features from `N(s_k mu_k, Sigma_k)` of all classes, `s_k = 0.9 + 0.1 (t_k + 1) / (t + 1)` for a
class of task t_k, with cross-entropy of `z / (0.1 n)`, where n is the mean of || z_a || over the
tasks a.
"""

from argparse import ArgumentParser
from typing import Any, ClassVar

import torch
from torch import nn

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.config import non_negative_int, positive_float
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.models.base import Parameters, Settings
from mammoth_compiled.models.common.extended import ExtendedModel
from mammoth_compiled.models.common.features import features_of_task, width_of_features
from mammoth_compiled.models.common.gaussians import ClassGaussians, train_on_samples
from mammoth_compiled.models.networks.headed import HeadedNet
from mammoth_compiled.registry import register_model
from mammoth_compiled.types import Batch

SAMPLES_PER_CLASS = 256
TEMPERATURE = 0.1  # of the normalized logits
_SETTING: dict[str, Any] = {"lr": 0.01, "optim_mom": 0.9, "optim_wd": 5e-4, "batch_size": 128}
_SETTING |= {"lr_scheduler": "multistep", "source": "SLCA repository"}
_SHORT = {**_SETTING, "n_epochs": 20, "lr_milestones": [18]}
_LONG = {**_SETTING, "n_epochs": 50, "lr_milestones": [40]}


@register_model("slca")
class SLCA(ExtendedModel):
    """Fine-tunes the backbone slowly, then trains the head on samples of Gaussians per class.

    Attributes:
        gaussians: Those of the features of each class.
        task_of_class: The task of each class, int64, [K].
        unaligned: The head as it was before its alignment, with which training continues.
    """

    DEFAULTS: ClassVar[dict[str, Settings]] = {
        "seq-cifar100": _SHORT,
        "seq-cifar100-224": _SHORT,
        "seq-imagenet-r": _LONG,
        "seq-cub200": _LONG,
    }

    task_of_class: torch.Tensor

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Adds `--backbone_lr_ratio` and `--alignment_epochs`."""
        parser.add_argument(
            "--backbone_lr_ratio",
            type=positive_float,
            default=0.01,
            help="Learning rate of the backbone per learning rate of the head.",
        )
        parser.add_argument(
            "--alignment_epochs",
            type=non_negative_int,
            default=5,
            help="Epochs of the head on samples of all classes, after each task but the first.",
        )
        return parser

    @staticmethod
    def extend(backbone: MammothBackbone, args: Any, dataset: ContinualDataset) -> HeadedNet:
        """Returns the backbone with a new linear head."""
        width = width_of_features(backbone, dataset)
        return HeadedNet(backbone, nn.Linear(width, dataset.N_CLASSES))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        head, k, width = self.net.head, self.num_classes, self.net.head.in_features
        self.gaussians = ClassGaussians(k, width).to(self.device)
        self.register_buffer("task_of_class", torch.zeros(k, dtype=torch.long, device=self.device))
        self.unaligned = nn.Linear(width, k, device=self.device)
        self.unaligned.requires_grad_(False)
        self.unaligned.load_state_dict(head.state_dict())

    def get_parameters(self) -> Parameters:
        """Returns one group for the backbone, one for the head."""
        slow = self.args.lr * self.args.backbone_lr_ratio
        body = {"params": list(self.net.body.parameters()), "lr": slow}
        return [body, {"params": list(self.net.head.parameters())}]

    def begin_task(self, dataset: ContinualDataset) -> None:
        """Takes back the alignment of the head."""
        super().begin_task(dataset)
        self.task_of_class[self.current] = dataset.c_task
        self.net.head.load_state_dict(self.unaligned.state_dict())

    def training_loss(self, batch: Batch) -> torch.Tensor:
        """Returns the loss among the classes of the task, 0-d."""
        return self.task_loss(self.net(batch.inputs), batch.labels)

    def end_task(self, dataset: ContinualDataset) -> None:
        """Computes the Gaussians of the task's classes, and aligns the head to all."""
        parts, labels = zip(*features_of_task(self, dataset), strict=True)
        self.gaussians.fit(torch.cat(parts), torch.cat(labels))
        self.unaligned.load_state_dict(self.net.head.state_dict())
        if dataset.c_task > 0:
            train_on_samples(
                self.net.head,
                self.gaussians.is_fitted.nonzero()[:, 0],
                draw=lambda k: self.samples(k, dataset.c_task),
                loss=lambda z, labels: self.alignment_loss(z, labels, dataset.c_task),
                lr=self.args.lr,
                epochs=self.args.alignment_epochs,
            )

    def samples(self, k: int, task: int) -> torch.Tensor:
        """Returns features drawn for class k after a task, [256, F]; older means shrink more."""
        scale = 0.9 + 0.1 * (self.task_of_class[k] + 1) / (task + 1)
        return self.gaussians.draw(k, SAMPLES_PER_CLASS, scale)

    def alignment_loss(self, logits: torch.Tensor, labels: torch.Tensor, task: int) -> torch.Tensor:
        """Returns the loss of logits [B, K] divided by their mean norm over the tasks, 0-d."""
        squares = logits.new_zeros(len(logits), self.n_tasks)
        squares = squares.index_add(1, self.task_of_class, logits.square())
        norm = squares[:, : task + 1].add(1e-12).sqrt().mean(1, keepdim=True)
        unseen = ~self.gaussians.is_fitted
        return self.loss((logits / norm / TEMPERATURE).masked_fill(unseen, -torch.inf), labels)
