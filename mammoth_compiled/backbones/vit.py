"""Vision transformers, `vit-tiny` for 32x32 images among them.

Source: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", arXiv 2010.11929.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from typing import Annotated, Any

import torch
from torch import nn
from torch.nn import functional as F

from mammoth_compiled.backbones.base import MammothBackbone, select_return
from mammoth_compiled.backbones.pretrained import LATER, load_pretrained, read_weights
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.registry import register_backbone
from mammoth_compiled.signatures import Minimum
from mammoth_compiled.types import ReturnTypes

# Keys and values that a block's attention sees before its own tokens, each [B, P, D].
Prefix = tuple[torch.Tensor, torch.Tensor]
# Computes [B, L, D] from the tokens in front of a block's MLP, [B, L, D].
Adapter = Callable[[torch.Tensor], torch.Tensor]


class Attention(nn.Module):
    """Multi-head self-attention, optionally with keys and values given from outside.

    Args:
        width: D, the width of a token.
        num_heads: Heads; they divide D.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv: nn.Module = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, prefix: Prefix | None = None) -> torch.Tensor:
        """Returns [B, L, D] for tokens [B, L, D], which also attend to the prefix, if any."""
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        if prefix is not None:
            key = torch.cat((prefix[0], key), dim=1)
            value = torch.cat((prefix[1], value), dim=1)
        heads = [t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (query, key, value)]
        attended = F.scaled_dot_product_attention(*heads)
        result: torch.Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return result


class MLP(nn.Module):
    """Two linear layers with GELU between them.

    Args:
        width: D, the width of a token.
        hidden: Units between the layers.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns [B, L, D] for tokens [B, L, D]."""
        result: torch.Tensor = self.fc2(F.gelu(self.fc1(x)))
        return result


class Block(nn.Module):
    """A transformer block that normalizes before attention and MLP.

    Args:
        width: D, the width of a token.
        num_heads: Heads of the attention.
        hidden: Units of the MLP.
    """

    def __init__(self, width: int, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width, hidden)

    def forward(
        self, x: torch.Tensor, prefix: Prefix | None = None, adapter: Adapter | None = None
    ) -> torch.Tensor:
        """Returns [B, L, D] for tokens [B, L, D].

        Args:
            x: Tokens.
            prefix: Passed to the attention.
            adapter: Computes from the tokens what is added to the result of the MLP.
        """
        x = x + self.attn(self.norm1(x), prefix)
        result: torch.Tensor = x + self.mlp(self.norm2(x))
        return result if adapter is None else result + adapter(x)


class PatchEmbedding(nn.Module):
    """One token per patch of the image: a convolution whose stride is its kernel size."""

    def __init__(self, patch_size: int, width: int, in_channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, patch_size, stride=patch_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns tokens [B, N, D] for images [B, C, H, W]."""
        result: torch.Tensor = self.proj(x).flatten(2).transpose(1, 2)
        return result


class VisionTransformer(MammothBackbone):
    """A vision transformer; the class token after the last norm is its feature.

    Parameters are named as in timm, so that files of weights fit.

    Args:
        num_classes: K, the width of the head.
        width: D, the width of a token.
        depth: Number of blocks.
        num_heads: Heads of each attention; they divide D.
        patch_size: Side of a patch, pixels; it divides the images.
        input_size: Height and width of the images, pixels.
        in_channels: Channels of the images.
        mlp_ratio: Units of the MLPs per unit of D.
        resize: Height and width to which images are resized first; None keeps them.
    """

    def __init__(
        self,
        num_classes: int,
        width: int,
        depth: int,
        num_heads: int,
        patch_size: int,
        input_size: Sequence[int],
        in_channels: int = 3,
        mlp_ratio: float = 4.0,
        resize: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        height, wide = resize or (input_size[0], input_size[-1])
        if height % patch_size or wide % patch_size:
            raise ConfigError(
                f"--patch_size {patch_size} does not divide images of {height}x{wide} pixels"
            )
        if width % num_heads:
            raise ConfigError(f"--num_heads {num_heads} does not divide --width {width}")
        self.resize = resize
        self.input_size = (height, wide)  # of what is cut into patches
        self.feature_dim = width
        num_tokens = 1 + (height // patch_size) * (wide // patch_size)
        self.patch_embed = PatchEmbedding(patch_size, width, in_channels)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, num_tokens, width))
        blocks = [Block(width, num_heads, int(mlp_ratio * width)) for _ in range(depth)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.classifier = nn.Linear(width, num_classes)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):  # as in the paper's code
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the tokens before the first block, [B, 1 + N, D], for images [B, C, H, W]."""
        if self.resize is not None:
            x = F.interpolate(x, self.resize, mode="bilinear")
        patches = self.patch_embed(x)
        return (
            torch.cat((self.cls_token.expand(patches.shape[0], -1, -1), patches), 1)
            + self.pos_embed
        )

    def encode(
        self,
        tokens: torch.Tensor,
        prefixes: Sequence[Prefix | None] = (),
        adapters: Iterable[Adapter] = (),
    ) -> torch.Tensor:
        """Returns the normalized tokens after the last block, [B, L, D].

        Args:
            tokens: As `embed` returns them, possibly with prompts added, [B, L, D].
            prefixes: One prefix or None for each of the first blocks.
            adapters: One adapter for each of the first blocks.
        """
        for block, prefix, adapter in zip_longest(self.blocks, prefixes, adapters):
            tokens = block(tokens, prefix, adapter)
        result: torch.Tensor = self.norm(tokens)
        return result

    def forward(self, x: torch.Tensor, returnt: ReturnTypes = ReturnTypes.OUT) -> Any:
        """Returns logits, [B, K], features, [B, D], or both."""
        features = self.encode(self.embed(x))[:, 0]
        return select_return(self.classifier(features), features, returnt)


@register_backbone("vit-tiny")
def vit_tiny(
    num_classes: int,
    width: Annotated[int, Minimum(1)] = 192,
    depth: Annotated[int, Minimum(1)] = 12,
    num_heads: Annotated[int, Minimum(1)] = 3,
    patch_size: Annotated[int, Minimum(1)] = 4,
    input_size: tuple[int, int] = (32, 32),
    in_channels: int = 3,
    pretrained: str = "none",
) -> VisionTransformer:
    """ViT-Ti with patches of 4x4 pixels for 32x32 images; 5,362,762 parameters for 10 classes.

    Args:
        num_classes: K, the width of the head.
        width: Width of a token.
        depth: Number of blocks.
        num_heads: Heads of each attention; they divide the width.
        patch_size: Side of a patch, pixels; it divides the images.
        input_size: Height and width of the images, pixels.
        in_channels: Channels of the images.
        pretrained: File of weights to start from, named as here or in timm; none: random ones.
    """
    net = VisionTransformer(
        num_classes, width, depth, num_heads, patch_size, input_size, in_channels
    )
    if pretrained not in ("none", LATER):
        own = {k: v for k, v in net.state_dict().items() if k.startswith("classifier.")}
        given = read_weights(pretrained)
        same_head = all(k in given and given[k].shape == v.shape for k, v in own.items())
        weights = given if same_head else {**given, **own}
        load_pretrained(net, weights, pretrained, ("head.", "fc_norm.", "pre_logits."))
    return net
