"""The datasets; importing the package registers every module in it."""

from mammoth_compiled.datasets.base import ContinualDataset, MammothDataset
from mammoth_compiled.datasets.defaults import set_default_from_args
from mammoth_compiled.plugins import import_submodules

import_submodules(__name__, __path__)

__all__ = ["ContinualDataset", "MammothDataset", "set_default_from_args"]
