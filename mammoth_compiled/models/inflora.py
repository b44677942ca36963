"""InfLoRA: low-rank updates that do not interfere with earlier tasks.

Source: Liang and Li 2024, "InfLoRA: Interference-Free Low-Rank Adaptation for Continual Learning",
arXiv 2404.00228; the space of earlier tasks by DualGPM, Liang and Li 2023, "Adaptive Plasticity
Improvement for Continual Learning".

The weights of keys and values are `W + B A`. Before a task, the rows of A become the first left
singular vectors of `G - P G`, divided by sqrt(3), where G is the gram of the task's inputs and P
projects onto the space of the inputs of earlier tasks. A is then fixed; B and the head are trained
with `CE(z, y)` over the classes of the task.

Deviation: the space is one projection matrix, of which DualGPM keeps whichever of two bases is
smaller. Grams are of images without augmentation.
"""

from argparse import ArgumentParser
from typing import Any, ClassVar

import torch

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.backbones.vit_conversion import as_vit
from mammoth_compiled.config import positive_int
from mammoth_compiled.config.values import fraction
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.models.base import Settings
from mammoth_compiled.models.common.extended import EXAMPLE_VIT, ExtendedModel
from mammoth_compiled.models.common.features import images_of_task, normalized
from mammoth_compiled.models.networks.low_rank import LowRankViT, grown_space
from mammoth_compiled.registry import register_model
from mammoth_compiled.types import Batch

_SETTING: dict[str, Any] = {"lr": 5e-4, "lr_scheduler": "cosine", "batch_size": 128, "n_epochs": 20}
_SETTING |= {"source": "InfLoRA repository"}


@register_model("inflora")
class InfLoRA(ExtendedModel):
    """Trains updates of keys and values in directions that inputs of earlier tasks hardly have.

    Attributes:
        spaces: Projection onto the inputs of earlier tasks of each block, [depth, D, D].
    """

    net: LowRankViT

    EXAMPLE_ARGS: ClassVar[dict[str, Any]] = {**EXAMPLE_VIT, "rank": 4}
    DEFAULTS: ClassVar[dict[str, Settings]] = {
        "seq-cifar100": _SETTING,
        "seq-cifar100-224": _SETTING,
        "seq-imagenet-r": {**_SETTING, "n_epochs": 50, "threshold": 0.98},
    }

    spaces: torch.Tensor

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Adds `--rank` and `--threshold`, and Adam as default."""
        parser.add_argument("--rank", type=positive_int, default=10, help="Rank of each update.")
        parser.add_argument(
            "--threshold",
            type=fraction,
            default=0.95,
            help="Share of the inputs that the protected space must hold after the first task; it "
            "grows to 1 with the tasks.",
        )
        parser.set_defaults(optimizer="adam")
        return parser

    @staticmethod
    def extend(backbone: MammothBackbone, args: Any, dataset: ContinualDataset) -> LowRankViT:
        """Returns the transformer with updates of rank 0.

        Raises:
            ConfigError: If the backbone is not a vision transformer, or the rank exceeds its width.
        """
        vit = as_vit(backbone)
        if args.rank > vit.feature_dim:
            raise ConfigError(f"--rank {args.rank} exceeds the width of a token, {vit.feature_dim}")
        return LowRankViT(vit, dataset.N_CLASSES, args.rank)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        depth, width = len(self.net.vit.blocks), self.net.vit.feature_dim
        self.register_buffer("spaces", torch.zeros(depth, width, width, device=self.device))

    def _grams(self, dataset: ContinualDataset) -> torch.Tensor:
        """Returns the grams of the task's images, float64, [depth, D, D]."""
        total = torch.zeros_like(self.spaces, dtype=torch.float64)
        for images, _ in images_of_task(dataset):
            for number, gram in enumerate(self.net.grams(normalized(self, images))):
                total[number] += gram
        return total

    @torch.no_grad()
    def begin_task(self, dataset: ContinualDataset) -> None:
        """Chooses the directions of the updates: the strongest outside the protected spaces."""
        super().begin_task(dataset)
        for layer, gram, space in zip(
            self.net.updates, self._grams(dataset), self.spaces.double(), strict=True
        ):
            directions = torch.linalg.svd(gram - space @ gram).U
            layer.a.copy_(directions[:, : len(layer.a)].T / 3**0.5)

    def training_loss(self, batch: Batch) -> torch.Tensor:
        """Returns the loss among the classes of the task, 0-d."""
        return self.task_loss(self.net(batch.inputs), batch.labels)

    @torch.no_grad()
    def end_task(self, dataset: ContinualDataset) -> None:
        """Merges the updates, and protects the inputs of the task."""
        for layer in self.net.updates:
            layer.merge()
        start = self.args.threshold
        threshold = start + (1 - start) * dataset.c_task / self.n_tasks
        for number, gram in enumerate(self._grams(dataset)):
            self.spaces[number] = grown_space(self.spaces[number].double(), gram, threshold)
