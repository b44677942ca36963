"""CIFAR-10 and CIFAR-100 enlarged to 224x224 pixels, for networks pretrained on ImageNet."""

from typing import Any, ClassVar

from torchvision import transforms
from torchvision.datasets import CIFAR10, CIFAR100

from mammoth_compiled.datasets.cifar import SequentialCIFAR
from mammoth_compiled.datasets.image_files import IMAGENET_MEAN, IMAGENET_STD
from mammoth_compiled.registry import register_dataset

_END = [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]


class SequentialCIFAR224(SequentialCIFAR):
    """Base of both datasets: images are stored with 32x32 pixels and enlarged in the batch.

    The replay buffer stores 32x32 pixels too. The filter is bilinear; Mammoth's is bicubic.
    """

    SIZE = (224, 224)
    MEAN = IMAGENET_MEAN
    STD = IMAGENET_STD
    TRANSFORM = transforms.Compose(
        [
            transforms.Resize(224),
            transforms.RandomCrop(224, padding=28),
            transforms.RandomHorizontalFlip(),
            *_END,
        ]
    )
    TEST_TRANSFORM = transforms.Compose([transforms.Resize(224), *_END])
    DEFAULTS: ClassVar[dict[str, Any]] = {"lr": 0.03, "batch_size": 128, "n_epochs": 5}

    @classmethod
    def get_normalization_transform(cls) -> Any:
        """Returns the transform that enlarges and normalizes a stored float image in [0, 1]."""
        return transforms.Compose([transforms.Resize(224), _END[1]])

    @staticmethod
    def get_backbone() -> str:
        """Returns the name of the default backbone, which is made for images of this size."""
        return "tv:resnet18"


@register_dataset("seq-cifar10-224")
class SequentialCIFAR10At224(SequentialCIFAR224):
    """CIFAR-10, 50,000 + 10,000 images, 5 tasks x 2 classes, enlarged to 224x224x3."""

    SOURCE = CIFAR10
    N_CLASSES_PER_TASK = 2
    N_TASKS = 5


@register_dataset("seq-cifar100-224")
class SequentialCIFAR100At224(SequentialCIFAR224):
    """CIFAR-100, 50,000 + 10,000 images, 10 tasks x 10 classes, enlarged to 224x224x3."""

    SOURCE = CIFAR100
    N_CLASSES_PER_TASK = 10
    N_TASKS = 10
