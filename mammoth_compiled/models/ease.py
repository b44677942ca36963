"""EASE: an adapter for each task, and class prototypes in the features of all of them.

Source: Zhou et al. 2024, "Expandable Subspace Ensemble for Pre-Trained Model-Based
Class-Incremental Learning", arXiv 2403.12030.

With features f_b and prototypes p_kb in the space of task b, the score of class k of task a after t
+ 1 tasks is `cos(f_a, p_ka) + alpha / t sum_{b != a} cos(f_b, p_kb)`. The prototype of an old class
in a new space is `p_ob = sum_n s_n p_nb` over the new classes n, where s is the softmax of
`cos(p_oa, p_na)` in the old class's own space.

Deviation: adapters have no dropout.
"""

from argparse import ArgumentParser
from typing import Any, ClassVar

import torch
from torch.nn import functional as F

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.backbones.vit_conversion import as_vit
from mammoth_compiled.config import non_negative_float, positive_int
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.models.base import Settings
from mammoth_compiled.models.common.extended import EXAMPLE_VIT, ExtendedModel
from mammoth_compiled.models.common.features import features_of_task
from mammoth_compiled.models.networks.subspaces import SubspaceViT
from mammoth_compiled.registry import register_model
from mammoth_compiled.types import Batch

_SETTING: dict[str, Any] = {"n_epochs": 20, "batch_size": 48, "optim_mom": 0.9, "optim_wd": 5e-4}
_SETTING |= {"lr_scheduler": "cosine", "lr": 0.025, "source": "LAMDA-PILOT repository, exps (EASE)"}


@register_model("ease")
class EASE(ExtendedModel):
    """Trains adapters for each task alone; a class scores mostly in the features of its own task.

    Attributes:
        prototypes: Mean features of each class with the adapters of each task, [K, T, D].
        task_of_class: The task of each class, -1 if not seen yet, int64, [K].
    """

    net: SubspaceViT

    EXAMPLE_ARGS: ClassVar[dict[str, Any]] = {**EXAMPLE_VIT, "adapter_dim": 4}
    DEFAULTS: ClassVar[dict[str, Settings]] = {
        "seq-cifar100": _SETTING,
        "seq-cifar100-224": _SETTING,
        "seq-imagenet-r": {**_SETTING, "lr": 0.05, "batch_size": 16, "optim_wd": 5e-3},
    }

    prototypes: torch.Tensor
    task_of_class: torch.Tensor

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Adds `--adapter_dim` and `--other_weight`."""
        parser.add_argument(
            "--adapter_dim", type=positive_int, default=64, help="Units of each adapter."
        )
        parser.add_argument(
            "--other_weight",
            type=non_negative_float,
            default=0.1,
            help="Weight of the mean score in the features of other tasks, alpha.",
        )
        return parser

    @staticmethod
    def extend(backbone: MammothBackbone, args: Any, dataset: ContinualDataset) -> SubspaceViT:
        """Returns the transformer with adapters for all tasks.

        Raises:
            ConfigError: If the backbone is not a vision transformer.
        """
        sizes = (args.adapter_dim, dataset.N_CLASSES, dataset.N_TASKS)
        return SubspaceViT(as_vit(backbone), *sizes)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("prototypes", torch.zeros_like(self.net.scorer))
        unseen = torch.full((self.num_classes,), -1, device=self.device)
        self.register_buffer("task_of_class", unseen)

    @torch.no_grad()
    def begin_task(self, dataset: ContinualDataset) -> None:
        """Starts new adapters."""
        super().begin_task(dataset)
        self.net.begin_task()

    def training_loss(self, batch: Batch) -> torch.Tensor:
        """Returns the loss among the classes of the task, 0-d."""
        return self.task_loss(self.net(batch.inputs), batch.labels)

    @torch.no_grad()
    def end_task(self, dataset: ContinualDataset) -> None:
        """Computes the prototypes of new classes, and those of old classes in new features."""
        task = dataset.c_task
        self.net.end_task(task)
        sums = torch.zeros_like(self.prototypes)
        counts = torch.zeros(self.num_classes, device=self.device)
        for features, labels in features_of_task(self, dataset):
            sums.index_add_(0, labels, features.unflatten(1, (self.n_tasks, -1)))
            counts.index_add_(0, labels, torch.ones_like(labels, dtype=counts.dtype))
        new = self.current
        self.prototypes[new] = sums[new] / counts[new].clamp(min=1)[:, None, None]
        self.task_of_class[new] = task
        for old in ((self.task_of_class >= 0) & ~new).nonzero()[:, 0].tolist():
            own = int(self.task_of_class[old])
            similarity = F.cosine_similarity(self.prototypes[old, own], self.prototypes[new, own])
            self.prototypes[old, task] = similarity.softmax(0) @ self.prototypes[new, task]
        weights = self.weights(task)[:, :, None]
        self.net.scorer.copy_(F.normalize(self.prototypes, dim=2) * weights)

    def weights(self, task: int) -> torch.Tensor:
        """Returns the weight of each class's score with the adapters of each task, [K, T]."""
        tasks = torch.arange(self.n_tasks, device=self.device)
        is_own = tasks == self.task_of_class[:, None]
        is_other = (tasks <= task) & ~is_own & (self.task_of_class >= 0)[:, None]
        return is_own + self.args.other_weight / max(1, task) * is_other
