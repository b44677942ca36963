"""What a model's backbone computes for stored images, outside of training steps."""

import torch

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.data import apply_transform
from mammoth_compiled.datasets.base import EVAL_BATCH_SIZE, ContinualDataset
from mammoth_compiled.models.base import ContinualModel


@torch.no_grad()
def outputs(model: ContinualModel, images: torch.Tensor, returnt: str = "out") -> torch.Tensor:
    """Returns the logits or features of images without augmentation, in eval mode.

    Every batch has the size of those of the evaluation, so that no graph of its own is compiled.

    Args:
        model: The model.
        images: Images in [0, 1], [n, C, H, W].
        returnt: "out" or "features".

    Returns:
        [n, K] or [n, F].
    """
    was_training = model.net.training
    model.net.eval()
    normalization = getattr(model, "normalization_transform", None)
    parts = []
    for part in images.split(EVAL_BATCH_SIZE):
        padding = part.new_zeros(EVAL_BATCH_SIZE - len(part), *part.shape[1:])
        inputs = apply_transform(torch.cat((part, padding)), normalization)
        parts.append(model.net(inputs, returnt=returnt)[: len(part)])
    model.net.train(was_training)
    return torch.cat(parts)


def feature_dim(model: ContinualModel) -> int:
    """Returns the number of features of the backbone, F."""
    return width_of_features(model.net, model.dataset)


@torch.no_grad()
def width_of_features(net: MammothBackbone, dataset: ContinualDataset) -> int:
    """Returns the number of features of a backbone for the images of a dataset, F."""
    was_training = net.training
    net.eval()
    images = torch.zeros(1, *dataset.info().input_shape, device=net.device)
    features: torch.Tensor = net(images, returnt="features")
    net.train(was_training)
    return features.shape[1]
