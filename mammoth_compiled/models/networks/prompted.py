"""A frozen vision transformer with prompts that depend on the image."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from mammoth_compiled.backbones.base import MammothBackbone, select_return
from mammoth_compiled.backbones.vit import VisionTransformer
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.models.networks.headed import freeze
from mammoth_compiled.types import ReturnTypes


class PromptedViT(MammothBackbone):
    """A frozen vision transformer whose own features of an image, the query, choose prompts.

    Args:
        vit: The transformer.
        num_classes: K, the width of the new head.
        num_tasks: T.

    Attributes:
        task: The current task from 0, int64, 0-d.
    """

    task: torch.Tensor

    def __init__(self, vit: VisionTransformer, num_classes: int, num_tasks: int) -> None:
        super().__init__()
        freeze(vit)
        self.vit = vit
        self.num_tasks = num_tasks
        self.head = nn.Linear(vit.feature_dim, num_classes)
        self.register_buffer("task", torch.zeros((), dtype=torch.long))

    def prompted(self, tokens: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        """Returns features with prompts, [B, D].

        Args:
            tokens: In front of the first block, [B, L, D].
            query: Features without prompts, [B, D].
        """
        raise NotImplementedError

    def begin_task(self, task: int) -> None:
        """Prepares the prompts for a task, counted from 0."""
        self.task.fill_(task)

    def forward(self, x: torch.Tensor, returnt: ReturnTypes = ReturnTypes.OUT) -> Any:
        """Returns logits, [B, K], features, [B, D], both, or (logits, [query])."""
        tokens = self.vit.embed(x)
        with torch.no_grad():
            query = self.vit.encode(tokens)[:, 0]
        features = self.prompted(tokens, query)
        if returnt == ReturnTypes.FULL:
            return self.head(features), [query]
        return select_return(self.head(features), features, returnt)


def cosines(query: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Returns the cosine of every query, [B, D], with every key, [P, D]: [B, P]."""
    return F.normalize(query, dim=-1) @ F.normalize(keys, dim=-1).T


def check_layers(layers: list[int], vit: VisionTransformer, flag: str) -> None:
    """Checks that a transformer has some blocks.

    Raises:
        ConfigError: If not.
    """
    depth = len(vit.blocks)
    if max(layers) >= depth:
        raise ConfigError(f"{flag}: the transformer has blocks 0 to {depth - 1}, got {max(layers)}")
