"""The datasets; importing the package registers the built-in ones."""

from mammoth_compiled.datasets import cifar, fashion_mnist, mnist
from mammoth_compiled.datasets.base import ContinualDataset, MammothDataset

__all__ = ["ContinualDataset", "MammothDataset", "cifar", "fashion_mnist", "mnist"]
