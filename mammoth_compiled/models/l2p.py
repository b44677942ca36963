"""L2P: prompts from a pool, in front of the tokens.

Source: Wang et al. 2022, "Learning to Prompt for Continual Learning", arXiv 2112.08654.

With the query q(x), the features of the frozen transformer, and keys k_i, the N prompts with the
largest `cos(q(x), k_i)` are put in front of the tokens, and the head reads the mean of their
outputs. The loss is `CE(z, y) - key_weight sum_{i chosen} cos(q(x), k_i)`.

Deviation: prompts are always chosen for each image. The authors' code can also choose those that a
batch prefers, also for testing, which makes results depend on the batches.
"""

from argparse import ArgumentParser
from typing import Any, ClassVar

import torch

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.backbones.vit_conversion import as_vit
from mammoth_compiled.config import non_negative_float, positive_int
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.models.base import Settings
from mammoth_compiled.models.common.extended import EXAMPLE_VIT
from mammoth_compiled.models.common.prompts import PromptModel
from mammoth_compiled.models.networks.pooled import PooledViT
from mammoth_compiled.models.networks.prompted import cosines
from mammoth_compiled.registry import register_model
from mammoth_compiled.types import Batch

_SETTING: dict[str, Any] = {"lr": 0.001875, "clip_grad": 1.0, "batch_size": 16, "n_epochs": 5}
_SETTING |= {"source": "Wang et al. 2022 (learning rate 0.03 per 256 images)"}


@register_model("l2p")
class L2P(PromptModel):
    """Trains a pool of prompts, of which each image takes those with the nearest keys."""

    net: PooledViT

    EXAMPLE_ARGS: ClassVar[dict[str, Any]] = {**EXAMPLE_VIT, "pool_size": 4, "top_k": 2}
    DEFAULTS: ClassVar[dict[str, Settings]] = {
        name: _SETTING
        for name in ("seq-cifar100", "seq-cifar100-224", "seq-imagenet-r", "seq-cub200")
    }

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Adds the arguments of the pool, and Adam as default."""
        count: dict[str, Any] = {"type": positive_int, "metavar": "N"}
        parser.add_argument("--pool_size", default=10, help="Prompts in the pool.", **count)
        parser.add_argument("--prompt_length", default=5, help="Tokens of a prompt.", **count)
        parser.add_argument("--top_k", default=5, help="Prompts for an image.", **count)
        parser.add_argument(
            "--key_weight",
            type=non_negative_float,
            default=0.1,
            help="Weight of the cosines that pull chosen keys toward queries.",
        )
        PromptModel.set_training_defaults(parser, clip_grad=1.0)
        return parser

    @staticmethod
    def extend(backbone: MammothBackbone, args: Any, dataset: ContinualDataset) -> PooledViT:
        """Returns the transformer with a pool of prompts.

        Raises:
            ConfigError: If the backbone is not a vision transformer, or the pool is too small.
        """
        if args.top_k > args.pool_size:
            raise ConfigError(f"--top_k {args.top_k} exceeds --pool_size {args.pool_size}")
        sizes = (args.pool_size, args.prompt_length, args.top_k)
        return PooledViT(as_vit(backbone), dataset.N_CLASSES, dataset.N_TASKS, *sizes)

    def training_loss(self, batch: Batch) -> torch.Tensor:
        """Returns the loss of the task minus the weighted cosines of chosen keys, 0-d."""
        logits, (query,) = self.net(batch.inputs, returnt="full")
        chosen = cosines(query, self.net.keys).topk(self.net.top_k).values
        pull = self.args.key_weight * chosen.sum(1).mean()
        return self.task_loss(logits, batch.labels) - pull
