"""Prompts from a pool, in front of the tokens."""

import torch
from torch import nn

from mammoth_compiled.backbones.vit import VisionTransformer
from mammoth_compiled.models.networks.prompted import PromptedViT, cosines


class PooledViT(PromptedViT):
    """Puts the prompts with the keys nearest to the query in front of the tokens.

    Args:
        vit: The transformer.
        num_classes: K.
        num_tasks: T.
        pool_size: P, prompts in the pool.
        length: Tokens of a prompt.
        top_k: Prompts chosen for an image.
    """

    def __init__(
        self,
        vit: VisionTransformer,
        num_classes: int,
        num_tasks: int,
        pool_size: int,
        length: int,
        top_k: int,
    ) -> None:
        super().__init__(vit, num_classes, num_tasks)
        self.top_k = top_k
        width = vit.feature_dim
        self.prompts = nn.Parameter(torch.empty(pool_size, length, width).uniform_(-1, 1))
        self.keys = nn.Parameter(torch.empty(pool_size, width).uniform_(-1, 1))

    def prompted(self, tokens: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        """Returns the mean of the prompts' own tokens after the last block, [B, D]."""
        chosen = cosines(query, self.keys).topk(self.top_k).indices
        prompts = self.prompts[chosen].flatten(1, 2)
        encoded = self.vit.encode(torch.cat((prompts, tokens), 1))
        return encoded[:, : prompts.shape[1]].mean(1)
