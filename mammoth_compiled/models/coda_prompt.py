"""CODA-Prompt: prompts as weighted sums of components.

Source: Smith et al. 2023, "CODA-Prompt: COntinual Decomposed Attention-based Prompting for
Rehearsal-Free Continual Learning", arXiv 2211.13218.

The prompt of an image with the query q is `p = sum_m cos(q * A_m, K_m) P_m` with components P_m,
keys K_m and attention A_m. A task trains its own components; those of earlier tasks get no
gradient. The penalty is the mean squared error of `X X^T` to the identity for X = P, K and A.

Deviation: new components are made orthogonal to the earlier ones exactly, by QR decomposition.
"""

from argparse import ArgumentParser
from typing import Any, ClassVar

import torch

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.backbones.vit_conversion import as_vit
from mammoth_compiled.config import non_negative_float, non_negative_int, positive_int
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.models.base import Settings
from mammoth_compiled.models.common.extended import EXAMPLE_VIT
from mammoth_compiled.models.common.prompts import PromptModel
from mammoth_compiled.models.networks.composed import ComposedViT
from mammoth_compiled.models.networks.prompted import check_layers
from mammoth_compiled.registry import register_model
from mammoth_compiled.types import Batch

_SETTING: dict[str, Any] = {
    "lr": 0.001,
    "lr_scheduler": "cosine",
    "batch_size": 128,
    "n_epochs": 20,
}
_SETTING |= {"source": "CODA-Prompt repository"}


@register_model("coda-prompt")
class CODAPrompt(PromptModel):
    """Trains components, whose weighted sum is the prompt of an image; each task adds some."""

    net: ComposedViT

    EXAMPLE_ARGS: ClassVar[dict[str, Any]] = {
        **EXAMPLE_VIT,
        "num_components": 20,
        "prompt_layers": [0, 1],
    }
    DEFAULTS: ClassVar[dict[str, Settings]] = {
        "seq-cifar100": _SETTING,
        "seq-cifar100-224": _SETTING,
        "seq-imagenet-r": {**_SETTING, "n_epochs": 50},
    }

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Adds the arguments of the components, and Adam as default."""
        parser.add_argument(
            "--num_components", type=positive_int, default=100, help="Components of all tasks."
        )
        parser.add_argument(
            "--prompt_length", type=positive_int, default=8, help="Keys and values of a prompt."
        )
        parser.add_argument(
            "--prompt_layers",
            type=non_negative_int,
            nargs="+",
            default=[0, 1, 2, 3, 4],
            metavar="BLOCK",
            help="Blocks with prompts.",
        )
        parser.add_argument(
            "--ortho_weight",
            type=non_negative_float,
            default=0.0,
            help="Weight of the penalty on components that are not orthogonal (paper: 0.1, "
            "authors' code: 0).",
        )
        PromptModel.set_training_defaults(parser)
        return parser

    @staticmethod
    def extend(backbone: MammothBackbone, args: Any, dataset: ContinualDataset) -> ComposedViT:
        """Returns the transformer with components.

        Raises:
            ConfigError: If the backbone is not a vision transformer or lacks one of the blocks, or
                the number of components or the length of prompts is impossible.
        """
        vit, tasks = as_vit(backbone), dataset.N_TASKS
        check_layers(args.prompt_layers, vit, "--prompt_layers")
        if not tasks <= args.num_components <= vit.feature_dim:
            raise ConfigError(
                f"--num_components {args.num_components}: must be at least the number of tasks, "
                f"{tasks}, and at most the width of a token, {vit.feature_dim}"
            )
        if args.prompt_length % 2:
            raise ConfigError(f"--prompt_length {args.prompt_length}: must be even")
        sizes = (args.num_components, args.prompt_length, args.prompt_layers)
        return ComposedViT(vit, dataset.N_CLASSES, tasks, *sizes)

    def training_loss(self, batch: Batch) -> torch.Tensor:
        """Returns the loss of the task plus the weighted penalty, 0-d."""
        loss = self.task_loss(self.net(batch.inputs), batch.labels)
        if self.args.ortho_weight:
            loss = loss + self.args.ortho_weight * self.net.orthogonality()
        return loss
