"""APER with adapters: class means of original and tuned features.

Source: Zhou et al. 2023, "Revisiting Class-Incremental Learning with Pre-Trained Models",
arXiv 2303.07338; called ADAM in its first version.

Adapters are trained on the first task with cross-entropy and then frozen. With features `f(x) =
[f_0(x), f_1(x)]` without and with adapters, the score of class k is `cos(f(x), w_k)`, where w_k is
the mean of f over the images of the class.

Deviation: adapters have no dropout.
"""

from argparse import ArgumentParser
from typing import Any, ClassVar

import torch

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.backbones.vit_conversion import as_vit
from mammoth_compiled.config import positive_int
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.models.base import Settings
from mammoth_compiled.models.common.extended import EXAMPLE_VIT
from mammoth_compiled.models.common.features import features_of_task
from mammoth_compiled.models.common.first_task import FirstTaskModel
from mammoth_compiled.models.networks.adapted import AdaptedViT
from mammoth_compiled.models.networks.headed import CosinePrototypes
from mammoth_compiled.registry import register_model

_SETTING: dict[str, Any] = {
    "n_epochs": 20,
    "batch_size": 48,
    "lr": 0.01,
    "optim_mom": 0.9,
    "optim_wd": 5e-4,
}
_SETTING |= {
    "lr_scheduler": "cosine",
    "source": "LAMDA-PILOT repository, exps (APER with adapters)",
}


@register_model("aper")
class APER(FirstTaskModel):
    """Tunes adapters on the first task; scores are cosines with class means of both features."""

    EXAMPLE_ARGS: ClassVar[dict[str, Any]] = {**EXAMPLE_VIT, "adapter_dim": 4}
    DEFAULTS: ClassVar[dict[str, Settings]] = {
        name: _SETTING
        for name in ("seq-cifar100", "seq-cifar100-224", "seq-imagenet-r", "seq-cub200")
    }

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Adds `--adapter_dim`."""
        parser.add_argument(
            "--adapter_dim", type=positive_int, default=64, help="Units of each adapter."
        )
        return parser

    @staticmethod
    def extend(backbone: MammothBackbone, args: Any, dataset: ContinualDataset) -> AdaptedViT:
        """Returns the transformer with and without adapters, and a head of class means.

        Raises:
            ConfigError: If the backbone is not a vision transformer.
        """
        vit = as_vit(backbone)
        head = CosinePrototypes(dataset.N_CLASSES, 2 * vit.feature_dim)
        return AdaptedViT(vit, args.adapter_dim, head, keeps_original=True)

    @torch.no_grad()
    def end_task(self, dataset: ContinualDataset) -> None:
        """Adds the task's images, without augmentation, to the class means."""
        for features, labels in features_of_task(self, dataset):
            self.net.head.add(features, labels)
