"""RanPAC: ridge regression on random nonlinear features.

Source: McDonnell et al. 2023, "RanPAC: Random Projections and Pre-trained Models for Continual
Learning", arXiv 2307.02251.

With features f after a fixed random projection, `h = relu(f P)`, the sums over all images so far
are `G = sum h^T h` and `Q = sum h^T y`, and scores are `h (G + lambda I)^-1 Q`. Before, adapters
are trained on the first task (phase 1).
"""

from argparse import ArgumentParser
from typing import Any, ClassVar

import torch
from torch.nn import functional as F

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.backbones.vit_conversion import as_vit
from mammoth_compiled.config import non_negative_int, positive_int
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.models.base import Settings
from mammoth_compiled.models.common.extended import EXAMPLE_VIT
from mammoth_compiled.models.common.features import features_of_task, width_of_features
from mammoth_compiled.models.common.first_task import FirstTaskModel
from mammoth_compiled.models.networks.adapted import AdaptedViT
from mammoth_compiled.models.networks.headed import HeadedNet, freeze
from mammoth_compiled.models.networks.random_projection import (
    RIDGES,
    RandomProjection,
    ridge_errors,
)
from mammoth_compiled.registry import register_model

# The share of a task's images that chooses the ridge.
VALIDATION = 0.2
_SETTING: dict[str, Any] = {
    "n_epochs": 20,
    "batch_size": 48,
    "lr": 0.01,
    "optim_mom": 0.9,
    "optim_wd": 5e-4,
}
_SETTING |= {"lr_scheduler": "cosine", "source": "RanPAC repository, args/*_publish.csv"}


@register_model("ranpac")
class RanPAC(FirstTaskModel):
    """Tunes adapters on the first task, then solves one regression for all classes seen.

    After each task, `G += h^T h` and `Q += h^T y` over its images, and the scores of an image are
    `h (G + ridge I)^-1 Q`, with the ridge of 10^-8, ..., 10^8 that predicts held-out images of the
    task best. G takes M^2 floats, 400 MB for M = 10,000.

    Attributes:
        gram: G, [M, M].
        moments: Q, [M, K].
    """

    COMPATIBILITY: ClassVar[list[str]] = ["class-il", "task-il", "domain-il"]
    EXAMPLE_ARGS: ClassVar[dict[str, Any]] = {**EXAMPLE_VIT, "projection_dim": 64, "adapter_dim": 4}
    DEFAULTS: ClassVar[dict[str, Settings]] = {
        name: _SETTING
        for name in ("seq-cifar100", "seq-cifar100-224", "seq-imagenet-r", "seq-cub200")
    }

    gram: torch.Tensor
    moments: torch.Tensor

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Adds `--projection_dim` and `--adapter_dim`."""
        parser.add_argument(
            "--projection_dim", type=positive_int, default=10_000, help="Random features, M."
        )
        parser.add_argument(
            "--adapter_dim",
            type=non_negative_int,
            default=64,
            help="Units of each adapter; 0 trains nothing and takes any backbone.",
        )
        return parser

    @staticmethod
    def extend(backbone: MammothBackbone, args: Any, dataset: ContinualDataset) -> MammothBackbone:
        """Returns the backbone with the head above, and with adapters unless there are to be none.

        Raises:
            ConfigError: If there are and the backbone is not a vision transformer.
        """
        width = width_of_features(backbone, dataset)
        head = RandomProjection(dataset.N_CLASSES, width, args.projection_dim)
        if args.adapter_dim:
            return AdaptedViT(as_vit(backbone), args.adapter_dim, head, keeps_original=False)
        freeze(backbone)
        return HeadedNet(backbone, head)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        size = self.args.projection_dim
        self.register_buffer("gram", torch.zeros(size, size, device=self.device))
        self.register_buffer("moments", torch.zeros(size, self.num_classes, device=self.device))

    @torch.no_grad()
    def end_task(self, dataset: ContinualDataset) -> None:
        """Adds the task's images to the regression and solves it."""
        features, labels = zip(*features_of_task(self, dataset), strict=True)
        hidden = self.net.head.project(torch.cat(features))
        targets = F.one_hot(torch.cat(labels), self.num_classes).to(hidden.dtype)
        self.gram += hidden.T @ hidden
        self.moments += hidden.T @ targets
        order = torch.randperm(len(hidden), device=hidden.device)
        fit, held_out = order.tensor_split([int((1 - VALIDATION) * len(order))])
        errors = ridge_errors(hidden[fit], targets[fit], hidden[held_out], targets[held_out])
        ridge = RIDGES[int(errors.argmin())]
        regularized = self.gram.double()
        regularized.diagonal().add_(ridge)
        self.net.head.weights.copy_(torch.linalg.solve(regularized, self.moments.double()))
