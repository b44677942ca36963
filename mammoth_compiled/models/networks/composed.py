"""Prompts as weighted sums of components."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from mammoth_compiled.backbones.vit import VisionTransformer
from mammoth_compiled.models.networks.prompted import PromptedViT


class ComposedViT(PromptedViT):
    """Blocks attend to `sum_m cos(q * A_m, K_m) P_m`: the first half are keys, the rest values.

    Args:
        vit: The transformer.
        num_classes: K.
        num_tasks: T.
        num_components: M, components of all tasks together, at most the width of a token.
        length: Keys and values of a prompt together.
        layers: Blocks with prompts.
    """

    def __init__(
        self,
        vit: VisionTransformer,
        num_classes: int,
        num_tasks: int,
        num_components: int,
        length: int,
        layers: list[int],
    ) -> None:
        super().__init__(vit, num_classes, num_tasks)
        self.layers, self.per_task = list(layers), num_components // num_tasks
        shape = (len(layers), num_components)
        self.components = nn.Parameter(torch.zeros(*shape, length * vit.feature_dim))
        self.keys = nn.Parameter(torch.zeros(*shape, vit.feature_dim))
        self.attention = nn.Parameter(torch.zeros(*shape, vit.feature_dim))

    def parts(self) -> list[torch.Tensor]:
        """Returns components, keys and attention, each [layers, M, ...].

        Those of earlier tasks get no gradient; those of later tasks are zeros.
        """
        task = torch.arange(self.keys.shape[1], device=self.keys.device) // self.per_task
        is_past, is_future = (task < self.task)[:, None], (task > self.task)[:, None]
        parts = (self.components, self.keys, self.attention)
        return [torch.where(is_past, p.detach(), p).masked_fill(is_future, 0) for p in parts]

    def prompted(self, tokens: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        """Returns the class token after the last block, [B, D]."""
        prefixes: list[Any] = [None] * len(self.vit.blocks)
        for layer, components, keys, attention in zip(self.layers, *self.parts(), strict=True):
            attended = F.normalize(query[:, None] * attention, dim=2)
            weights = torch.einsum("bmd,md->bm", attended, F.normalize(keys, dim=1))
            prompt = (weights @ components).unflatten(1, (-1, query.shape[1]))
            key, value = prompt.chunk(2, dim=1)
            prefixes[layer] = key, value
        return self.vit.encode(tokens, prefixes)[:, 0]

    def begin_task(self, task: int) -> None:
        """Draws the components of a task: unit vectors, orthogonal to all earlier ones."""
        super().begin_task(task)
        first, end = task * self.per_task, (task + 1) * self.per_task
        for parameter in (self.components, self.keys, self.attention):
            earlier = torch.linalg.qr(parameter[:, :first].mT).Q
            new = torch.randn_like(parameter[:, first:end]).mT
            for _ in range(2):  # once leaves rounding errors
                new = torch.linalg.qr(new - earlier @ (earlier.mT @ new)).Q
            parameter[:, first:end] = new.mT

    def orthogonality(self) -> torch.Tensor:
        """Returns the penalty on components X of the tasks so far that are not orthogonal, 0-d.

        This is the mean squared error of X X^T to the identity, summed over all parts and layers.
        """
        total = self.keys.new_zeros(())
        used = (self.task + 1) * self.per_task
        for part in self.parts():
            # Rows of later tasks are zeros, for which the identity has none either.
            identity = torch.diag_embed((part.detach().abs().sum(2) > 0).to(part.dtype))
            total = total + (part @ part.mT - identity).square().sum()
        return total / used**2
