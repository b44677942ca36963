"""A CNN with self-attention over the pixels of its feature maps."""

from typing import Annotated, Any

import torch
from torch import nn
from torch.nn import functional as F

from mammoth_compiled.backbones.base import MammothBackbone, select_return
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.registry import register_backbone
from mammoth_compiled.signatures import Minimum
from mammoth_compiled.types import ReturnTypes

# Above that, the weights of one batch take more memory than most GPUs have.
MAX_SIZE = 64


class SelfAttention(nn.Module):
    """Single-head self-attention in which every pixel of a feature map is a token.

    Args:
        channels: Channels of the map and size of the head, C.

    Source:
        Vaswani et al. 2017, equation 1, arXiv 1706.03762.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.scale = channels**-0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the attended map, [B, C, H, W], of a map of that shape."""
        tokens = x.flatten(2).transpose(1, 2)
        query, key, value = self.query(tokens), self.key(tokens), self.value(tokens)
        weights = torch.softmax(torch.bmm(query, key.transpose(1, 2)) * self.scale, dim=-1)
        return torch.bmm(weights, value).transpose(1, 2).reshape(x.shape)


class AttentionCNN(MammothBackbone):
    """Three convolutions, attention after the first two, and global average pooling.

    Args:
        num_classes: K, the width of the head.
        num_channels: Filters of the first convolution; the others have two and four times as many.
        in_channels: Channels of the images.
    """

    def __init__(self, num_classes: int, num_channels: int = 64, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, num_channels, 3, padding=1)
        self.attention1 = SelfAttention(num_channels)
        self.conv2 = nn.Conv2d(num_channels, 2 * num_channels, 3, stride=2, padding=1)
        self.attention2 = SelfAttention(2 * num_channels)
        self.conv3 = nn.Conv2d(2 * num_channels, 4 * num_channels, 3, stride=2, padding=1)
        self.feature_dim = 4 * num_channels
        self.classifier = nn.Linear(self.feature_dim, num_classes)

    def forward(self, x: torch.Tensor, returnt: ReturnTypes = ReturnTypes.OUT) -> Any:
        """Returns logits, [B, K], features, [B, 4 * num_channels], or both."""
        x = self.attention1(F.relu(self.conv1(x)))
        x = self.attention2(F.relu(self.conv2(x)))
        x = F.relu(self.conv3(x))
        features = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return select_return(self.classifier(features), features, returnt)


@register_backbone("attention-cnn")
def attention_cnn(
    num_classes: int,
    num_channels: Annotated[int, Minimum(1)] = 64,
    in_channels: int = 3,
    input_size: int = 32,
) -> AttentionCNN:
    """CNN with self-attention over 1024 and 256 tokens for 32x32 images.

    Args:
        num_classes: K, the width of the head.
        num_channels: Filters of the first convolution; the others have two and four times as many.
        in_channels: Channels of the images.
        input_size: Height and width of the images, at most MAX_SIZE.

    Raises:
        ConfigError: If the images are larger.
    """
    if input_size > MAX_SIZE:
        raise ConfigError(
            f"backbone 'attention-cnn': images may have at most {MAX_SIZE}x{MAX_SIZE} pixels, got "
            f"{input_size}x{input_size}, because it relates every pixel to every other one: choose "
            "another backbone"
        )
    return AttentionCNN(num_classes, num_channels, in_channels)
