"""The multi-layer perceptron commonly used on the MNIST family."""

from typing import Annotated, Any

import torch
from torch import nn

from mammoth_compiled.backbones.base import MammothBackbone, select_return
from mammoth_compiled.registry import register_backbone
from mammoth_compiled.signatures import InputShape, Minimum
from mammoth_compiled.types import ReturnTypes


@register_backbone("mnistmlp")
class MNISTMLP(MammothBackbone):
    """MLP with two hidden layers of 100 units on flattened images.

    Args:
        num_classes: K, the width of the head.
        input_size: Pixels times channels of an image.
        hidden_size: Units of each hidden layer.

    Source:
        Lopez-Paz and Ranzato 2017, "Gradient Episodic Memory".
    """

    def __init__(
        self,
        num_classes: int,
        input_size: Annotated[int, InputShape.FLAT] = 28 * 28,
        hidden_size: Annotated[int, Minimum(1)] = 100,
    ) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Linear(input_size, hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, hidden_size),
            nn.ReLU(),
        )
        self.feature_dim = hidden_size
        self.classifier = nn.Linear(hidden_size, num_classes)

    def forward(self, x: torch.Tensor, returnt: ReturnTypes = ReturnTypes.OUT) -> Any:
        """Returns logits, [B, K], features, [B, hidden_size], or both for images of any shape."""
        features = self.backbone(x.flatten(1))
        return select_return(self.classifier(features), features, returnt)
