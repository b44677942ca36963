"""SimpleCIL: class means of frozen features.

Source: Zhou et al. 2023, "Revisiting Class-Incremental Learning with Pre-Trained Models",
arXiv 2303.07338.

The score of class k is `cos(f(x), w_k)`, where w_k is the mean of f over the images of the class.
"""

from typing import Any, ClassVar

import torch

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.models.base import Settings
from mammoth_compiled.models.common.extended import ExtendedModel
from mammoth_compiled.models.common.features import plain_features, width_of_features
from mammoth_compiled.models.common.settings import EVERY_SETTING
from mammoth_compiled.models.networks.headed import CosinePrototypes, HeadedNet, freeze
from mammoth_compiled.registry import register_model
from mammoth_compiled.types import Batch

_SETTING: dict[str, Any] = {
    "source": "Zhou et al. 2023, arXiv 2303.07338",
    "n_epochs": 1,
    "batch_size": 64,
}


@register_model("simplecil")
class SimpleCIL(ExtendedModel):
    """Trains nothing: scores are cosines with the mean features of each class.

    The backbone should be pretrained, as in `--backbone timm:vit_base_patch16_224 --pretrained
    hub`. One epoch is enough; further ones change nothing but rounding.
    """

    COMPATIBILITY: ClassVar[list[str]] = EVERY_SETTING
    DEFAULTS: ClassVar[dict[str, Settings]] = {
        name: _SETTING
        for name in ("seq-cifar100", "seq-cifar100-224", "seq-imagenet-r", "seq-cub200")
    }

    @staticmethod
    def extend(backbone: MammothBackbone, args: Any, dataset: ContinualDataset) -> HeadedNet:
        """Returns the frozen backbone with a head of class means."""
        freeze(backbone)
        width = width_of_features(backbone, dataset)
        return HeadedNet(backbone, CosinePrototypes(dataset.N_CLASSES, width))

    def begin_task(self, dataset: ContinualDataset) -> None:
        """Fixes running statistics too."""
        super().begin_task(dataset)
        self.net.eval()

    def training_loss(self, batch: Batch) -> torch.Tensor:
        """Returns 0, 0-d."""
        return 0 * self.unused

    def after_step(self, batch: Batch) -> None:
        """Adds the images, without augmentation, to the means."""
        self.net.head.add(plain_features(self, batch.not_aug_inputs), batch.labels)
