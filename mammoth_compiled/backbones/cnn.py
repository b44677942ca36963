"""The small CNN for 32x32 images: two convolutions with pooling and a linear head."""

from typing import Annotated, Any

import torch
from torch import nn
from torch.nn import functional as F

from mammoth_compiled.backbones.base import MammothBackbone, select_return
from mammoth_compiled.registry import register_backbone
from mammoth_compiled.signatures import Minimum
from mammoth_compiled.types import ReturnTypes


class CNN(MammothBackbone):
    """Two conv3x3-relu-maxpool blocks and a linear classifier on the flattened maps.

    Args:
        num_classes: K, the width of the head.
        num_channels: Filters of the first convolution; the second has twice as many.
        input_size: Height and width of the images, pixels.
        in_channels: Channels of the images.
    """

    def __init__(
        self, num_classes: int, num_channels: int = 32, input_size: int = 32, in_channels: int = 3
    ) -> None:
        super().__init__()
        self.layer1 = nn.Conv2d(in_channels, num_channels, 3, padding=1)
        self.layer2 = nn.Conv2d(num_channels, 2 * num_channels, 3, padding=1)
        self.maxpool = nn.MaxPool2d(2)
        self.feature_dim = 2 * num_channels * (input_size // 4) ** 2
        self.classifier = nn.Linear(self.feature_dim, num_classes)

    def forward(self, x: torch.Tensor, returnt: ReturnTypes = ReturnTypes.OUT) -> Any:
        """Returns logits, [B, K], features, [B, feature_dim], or both."""
        x = self.maxpool(F.relu(self.layer1(x)))
        x = self.maxpool(F.relu(self.layer2(x)))
        features = x.flatten(1)
        return select_return(self.classifier(features), features, returnt)


@register_backbone("cnn")
def cnn(
    num_classes: int,
    num_channels: Annotated[int, Minimum(1)] = 32,
    input_size: int = 32,
    in_channels: int = 3,
) -> CNN:
    """Two-convolution CNN, 32 and 64 channels; 60,362 parameters for 10 classes."""
    return CNN(num_classes, num_channels, input_size, in_channels)


@register_backbone("cnn-wide")
def cnn_wide(
    num_classes: int,
    num_channels: Annotated[int, Minimum(1)] = 64,
    input_size: int = 32,
    in_channels: int = 3,
) -> CNN:
    """Two-convolution CNN, 64 and 128 channels; 157,578 parameters for 10 classes."""
    return CNN(num_classes, num_channels, input_size, in_channels)
