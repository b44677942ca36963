"""DualPrompt: general and task-specific prompts as keys and values of the attention.

Source: Wang et al. 2022, "DualPrompt: Complementary Prompting for Rehearsal-free Continual
Learning", arXiv 2204.04799.

The first blocks attend to `[p_K, K]` and `[p_V, V]` with a prompt p for all tasks, later ones with
one of the task. The loss is `CE(z, y) - key_weight cos(q, k_t)` with the query q, the features
without prompts, and the key k_t of the task. For testing, the task is that of the key with the
largest cosine. A new task starts from the prompt and key before it.

Deviation: each image has its own prompt, while a reshape in the authors' code can mix those of a
batch.
"""

from argparse import ArgumentParser
from typing import Any, ClassVar

import torch

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.backbones.vit_conversion import as_vit
from mammoth_compiled.config import non_negative_float, non_negative_int, positive_int
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.models.base import Settings
from mammoth_compiled.models.common.extended import EXAMPLE_VIT
from mammoth_compiled.models.common.prompts import PromptModel
from mammoth_compiled.models.networks.dual_prompted import DualPromptedViT
from mammoth_compiled.models.networks.prompted import check_layers, cosines
from mammoth_compiled.registry import register_model
from mammoth_compiled.types import Batch

_SETTING: dict[str, Any] = {"lr": 0.0028, "clip_grad": 1.0, "batch_size": 24, "n_epochs": 5}
_SETTING |= {"source": "Wang et al. 2022 (learning rate 0.03 per 256 images)"}


@register_model("dualprompt")
class DualPrompt(PromptModel):
    """Trains a prompt for all tasks in the first blocks, and one for each task in later blocks."""

    net: DualPromptedViT

    EXAMPLE_ARGS: ClassVar[dict[str, Any]] = {
        **EXAMPLE_VIT,
        "general_layers": [0],
        "task_layers": [1],
    }
    DEFAULTS: ClassVar[dict[str, Settings]] = {
        name: _SETTING
        for name in ("seq-cifar100", "seq-cifar100-224", "seq-imagenet-r", "seq-cub200")
    }

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Adds the arguments of the prompts, and Adam as default."""
        blocks: dict[str, Any] = {"type": non_negative_int, "nargs": "+", "metavar": "BLOCK"}
        parser.add_argument(
            "--general_layers", default=[0, 1], help="Blocks with the general prompt.", **blocks
        )
        parser.add_argument(
            "--task_layers", default=[2, 3, 4], help="Blocks with the task's prompt.", **blocks
        )
        parser.add_argument(
            "--prompt_length", type=positive_int, default=5, help="Keys and values of a prompt."
        )
        parser.add_argument(
            "--key_weight",
            type=non_negative_float,
            default=1.0,
            help="Weight of the cosine that pulls the task's key toward queries.",
        )
        PromptModel.set_training_defaults(parser, clip_grad=1.0)
        return parser

    @staticmethod
    def extend(backbone: MammothBackbone, args: Any, dataset: ContinualDataset) -> DualPromptedViT:
        """Returns the transformer with both kinds of prompts.

        Raises:
            ConfigError: If the backbone is not a vision transformer or lacks one of the blocks.
        """
        vit = as_vit(backbone)
        check_layers(args.general_layers, vit, "--general_layers")
        check_layers(args.task_layers, vit, "--task_layers")
        return DualPromptedViT(
            vit,
            dataset.N_CLASSES,
            dataset.N_TASKS,
            args.prompt_length,
            args.general_layers,
            args.task_layers,
        )

    def training_loss(self, batch: Batch) -> torch.Tensor:
        """Returns the loss of the task minus the weighted cosine of its key, 0-d."""
        logits, (query,) = self.net(batch.inputs, returnt="full")
        key = self.net.keys.index_select(0, self.net.task.view(1))  # `[task]` would be a host sync
        pull = self.args.key_weight * cosines(query, key).mean()
        return self.task_loss(logits, batch.labels) - pull
