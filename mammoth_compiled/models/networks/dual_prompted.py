"""General and task-specific prompts as keys and values of the attention."""

from typing import Any

import torch
from torch import nn

from mammoth_compiled.backbones.vit import VisionTransformer
from mammoth_compiled.models.networks.prompted import PromptedViT, cosines


class DualPromptedViT(PromptedViT):
    """Some blocks attend to prompts of all tasks, others to those of one task.

    Args:
        vit: The transformer.
        num_classes: K.
        num_tasks: T.
        length: Keys, and values, of a prompt.
        general_layers: Blocks with the general prompt.
        task_layers: Blocks with the prompt of a task.
    """

    def __init__(
        self,
        vit: VisionTransformer,
        num_classes: int,
        num_tasks: int,
        length: int,
        general_layers: list[int],
        task_layers: list[int],
    ) -> None:
        super().__init__(vit, num_classes, num_tasks)
        width = vit.feature_dim
        self.general_layers, self.task_layers = list(general_layers), list(task_layers)

        def uniform(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape, width).uniform_(-1, 1))

        self.general = uniform(len(general_layers), 2, length)
        self.specific = uniform(len(task_layers), 2, num_tasks, length)
        self.keys = uniform(num_tasks)

    def choose(self, query: torch.Tensor) -> torch.Tensor:
        """Returns the task whose prompt each image takes, int64, [B].

        In training that is the current task, else the one with the nearest key of those seen.
        """
        if self.training:
            return self.task.expand(query.shape[0])
        is_unseen = torch.arange(self.num_tasks, device=query.device) > self.task
        return cosines(query, self.keys).masked_fill(is_unseen, -2.0).argmax(1)

    def prompted(self, tokens: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        """Returns the class token after the last block, [B, D]."""
        chosen = self.choose(query)
        prefixes: list[Any] = [None] * len(self.vit.blocks)
        for number, layer in enumerate(self.general_layers):
            key, value = self.general[number].unbind()
            size = (query.shape[0], -1, -1)
            prefixes[layer] = key.expand(size), value.expand(size)
        for number, layer in enumerate(self.task_layers):
            key, value = self.specific[number].unbind()
            prefixes[layer] = key[chosen], value[chosen]
        return self.vit.encode(tokens, prefixes)[:, 0]

    def begin_task(self, task: int) -> None:
        """Starts the task's prompt and key from those of the task before."""
        super().begin_task(task)
        if task > 0:
            self.specific[:, :, task] = self.specific[:, :, task - 1].clone()
            self.keys[task] = self.keys[task - 1].clone()
