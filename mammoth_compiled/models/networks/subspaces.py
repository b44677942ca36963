"""A vision transformer with the adapters of all tasks side by side."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from mammoth_compiled.backbones.base import MammothBackbone, select_return
from mammoth_compiled.backbones.vit import Adapter, VisionTransformer
from mammoth_compiled.models.networks.adapted import SCALE
from mammoth_compiled.models.networks.headed import freeze
from mammoth_compiled.types import ReturnTypes


class SubspaceViT(MammothBackbone):
    """A frozen vision transformer with adapters of all tasks, which run side by side.

    In training it computes with the current task's adapters and a linear head; in eval mode with
    those of all tasks, [B, T, D], at the cost of T transformers, and with prototypes.

    Args:
        vit: The transformer.
        hidden: r, units of an adapter.
        num_classes: K.
        num_tasks: T.

    Attributes:
        down: First layers of the current adapters with bias, [depth, D + 1, r].
        up: Their second layers with bias, [depth, r + 1, D].
        all_down: Those of all tasks, [T, depth, D + 1, r].
        all_up: Likewise, [T, depth, r + 1, D].
        scorer: Weighted, normalized prototypes, [K, T, D].
    """

    all_down: torch.Tensor
    all_up: torch.Tensor
    scorer: torch.Tensor

    def __init__(
        self, vit: VisionTransformer, hidden: int, num_classes: int, num_tasks: int
    ) -> None:
        super().__init__()
        freeze(vit)
        self.vit = vit
        depth, width = len(vit.blocks), vit.feature_dim
        self.head = nn.Linear(width, num_classes)
        self.down = nn.Parameter(torch.zeros(depth, width + 1, hidden))
        self.up = nn.Parameter(torch.zeros(depth, hidden + 1, width))
        self.register_buffer("all_down", torch.zeros(num_tasks, *self.down.shape))
        self.register_buffer("all_up", torch.zeros(num_tasks, *self.up.shape))
        self.register_buffer("scorer", torch.zeros(num_classes, num_tasks, width))

    def begin_task(self) -> None:
        """Draws new adapters, which return 0."""
        width = self.down.shape[1] - 1
        self.down[:, :-1].uniform_(-(width**-0.5), width**-0.5)
        self.down[:, -1].zero_()
        self.up.zero_()

    def end_task(self, task: int) -> None:
        """Keeps the current adapters as those of a task."""
        self.all_down[task] = self.down
        self.all_up[task] = self.up

    def _encode(self, x: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Returns class tokens, [B, T, D], with adapters [T, depth, ...]."""
        tokens = self.vit.embed(x)
        num_sets = down.shape[0]
        copies = tokens[:, None].expand(-1, num_sets, -1, -1).flatten(0, 1)

        def adapter(layer: int) -> Adapter:
            def apply(x: torch.Tensor) -> torch.Tensor:
                x = x.unflatten(0, (-1, num_sets))
                inner = F.relu(x @ down[:, layer, :-1] + down[:, layer, -1:])
                return SCALE * (inner @ up[:, layer, :-1] + up[:, layer, -1:]).flatten(0, 1)

            return apply

        adapters = [adapter(layer) for layer in range(len(self.vit.blocks))]
        return self.vit.encode(copies, adapters=adapters)[:, 0].unflatten(0, (-1, num_sets))

    def forward(self, x: torch.Tensor, returnt: ReturnTypes = ReturnTypes.OUT) -> Any:
        """Returns scores, [B, K], features, [B, T * D] ([B, D] in training), or both."""
        if self.training:
            features = self._encode(x, self.down[None], self.up[None]).flatten(1)
            return select_return(self.head(features), features, returnt)
        parts = self._encode(x, self.all_down, self.all_up)
        scores = F.normalize(parts, dim=2).flatten(1) @ self.scorer.flatten(1).T
        return select_return(scores, parts.flatten(1), returnt)
