"""What a model's backbone computes for stored images, outside of training steps."""

from collections.abc import Iterator

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
    parts = []
    for part in images.split(EVAL_BATCH_SIZE):
        padding = part.new_zeros(EVAL_BATCH_SIZE - len(part), *part.shape[1:])
        inputs = normalized(model, torch.cat((part, padding)))
        parts.append(model.net(inputs, returnt=returnt)[: len(part)])
    model.net.train(was_training)
    return torch.cat(parts)


def images_of_task(
    dataset: ContinualDataset, batch_size: int = EVAL_BATCH_SIZE
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields the training images of the current task, in their order, without augmentation.

    Args:
        dataset: The dataset, in a task.
        batch_size: Images at a time, B.

    Yields:
        Images in [0, 1], [B, C, H, W], and their class ids, int64, [B].
    """
    loader = dataset.train_loader
    for index in torch.arange(len(loader.dataset)).split(batch_size):
        _, labels, images = loader.gather(index)[:3]
        yield images, labels


def features_of_task(
    model: ContinualModel, dataset: ContinualDataset
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields the features, [B, F], and class ids, [B], of `images_of_task`, in eval mode."""
    for images, labels in images_of_task(dataset):
        yield outputs(model, images, "features"), labels


def normalized(model: ContinualModel, images: torch.Tensor) -> torch.Tensor:
    """Returns images in [0, 1], [B, C, H, W], as the network takes them, without augmentation."""
    return apply_transform(images, getattr(model, "normalization_transform", None))


def plain_features(model: ContinualModel, images: torch.Tensor) -> torch.Tensor:
    """Returns the features of images without augmentation, [B, F], in the mode the network is in.

    Args:
        model: The model.
        images: Images in [0, 1], [B, C, H, W].
    """
    features: torch.Tensor = model.net(normalized(model, images), returnt="features")
    return features


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
