"""ResNets for small images, built from the blocks of torchvision.

Source: He et al. 2016, "Deep Residual Learning for Image Recognition", arXiv 1512.03385.
"""

from typing import Annotated, Any

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, Bottleneck, conv1x1

from mammoth_compiled.backbones.base import MammothBackbone, select_return
from mammoth_compiled.registry import register_backbone
from mammoth_compiled.signatures import Minimum
from mammoth_compiled.types import ReturnTypes


class PadShortcut(nn.Module):
    """Shortcut without parameters: subsamples the map and appends channels of zeros.

    Source:
        He et al. 2016, section 3.3, option A.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.extra_channels = out_channels - in_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns [B, C_out, H / stride, W / stride] for a map [B, C_in, H, W]."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra_channels))


class ProjectionShortcut(nn.Sequential):
    """Shortcut with a 1x1 convolution and batch norm (option B)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(conv1x1(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))


class ResNet(MammothBackbone):
    """Residual network with a 3x3 stem and no pooling before the first stage.

    Args:
        block: BasicBlock or Bottleneck of torchvision.
        depths: Blocks per stage.
        widths: Channels per stage, before the expansion of the block.
        num_classes: K, the width of the head.
        in_channels: Channels of the images.
        shortcut: Module class of the shortcuts that change the shape.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: list[int],
        widths: list[int],
        num_classes: int,
        in_channels: int = 3,
        shortcut: type[nn.Module] = ProjectionShortcut,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        stages = []
        channels = widths[0]
        for i, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            blocks = []
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                out_channels = width * block.expansion
                change = stride != 1 or channels != out_channels
                downsample = shortcut(channels, out_channels, stride) if change else None
                blocks.append(block(channels, width, stride, downsample))
                channels = out_channels
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.feature_dim = channels
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: torch.Tensor, returnt: ReturnTypes = ReturnTypes.OUT) -> Any:
        """Returns logits, [B, K], features, [B, F], both, or (logits, list of stage maps)."""
        maps = [F.relu(self.bn1(self.conv1(x)))]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        features = F.adaptive_avg_pool2d(maps[-1], 1).flatten(1)
        logits = self.classifier(features)
        if returnt == ReturnTypes.FULL:
            return logits, maps
        return select_return(logits, features, returnt)


@register_backbone("resnet18")
def resnet18(
    num_classes: int, num_filters: Annotated[int, Minimum(1)] = 64, in_channels: int = 3
) -> ResNet:
    """ResNet-18 for 32x32 images; 11,173,962 parameters for 10 classes."""
    widths = [num_filters * 2**i for i in range(4)]
    return ResNet(BasicBlock, [2, 2, 2, 2], widths, num_classes, in_channels)


@register_backbone("reduced-resnet18")
def reduced_resnet18(
    num_classes: int, num_filters: Annotated[int, Minimum(1)] = 20, in_channels: int = 3
) -> ResNet:
    """ResNet-18 with 20 filters in the first stage, common in online continual learning."""
    return resnet18(num_classes, num_filters, in_channels)


@register_backbone("resnet32")
def resnet32(num_classes: int, in_channels: int = 3) -> ResNet:
    """ResNet-32 for 32x32 images, with parameter-free shortcuts (He et al. 2016, section 4.2)."""
    return ResNet(BasicBlock, [5, 5, 5], [16, 32, 64], num_classes, in_channels, PadShortcut)


@register_backbone("resnet50")
def resnet50(
    num_classes: int, num_filters: Annotated[int, Minimum(1)] = 64, in_channels: int = 3
) -> ResNet:
    """ResNet-50 for 32x32 images; 23,520,842 parameters for 10 classes."""
    widths = [num_filters * 2**i for i in range(4)]
    return ResNet(Bottleneck, [3, 4, 6, 3], widths, num_classes, in_channels)
