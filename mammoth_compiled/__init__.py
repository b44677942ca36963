"""Continual-learning experiments at compiled speed, and backbones one can ship.

The public names: those of Mammoth Lite, and `evaluate`, `export_bundle`, `load_bundle`,
`update_bundle`.
"""

from importlib.metadata import PackageNotFoundError, version

# First, because the other imports take seconds and Ctrl-C may come in between.
import mammoth_compiled.startup  # noqa: F401  # isort: split
from mammoth_compiled.backbones import MammothBackbone
from mammoth_compiled.buffers import Buffer
from mammoth_compiled.config import add_rehearsal_args, get_avail_args
from mammoth_compiled.datasets import ContinualDataset, MammothDataset
from mammoth_compiled.device import base_path, get_device
from mammoth_compiled.engine import evaluate
from mammoth_compiled.export import export_bundle, load_bundle, update_bundle
from mammoth_compiled.models import ContinualModel
from mammoth_compiled.registry import (
    get_backbone_names,
    get_dataset_names,
    get_model_names,
    register_backbone,
    register_dataset,
    register_model,
)
from mammoth_compiled.runner import load_runner
from mammoth_compiled.training import train
from mammoth_compiled.types import ReturnTypes

try:
    __version__ = version("mammoth-compiled")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"

__all__ = [
    "Buffer",
    "ContinualDataset",
    "ContinualModel",
    "MammothBackbone",
    "MammothDataset",
    "ReturnTypes",
    "__version__",
    "add_rehearsal_args",
    "base_path",
    "evaluate",
    "export_bundle",
    "get_avail_args",
    "get_backbone_names",
    "get_dataset_names",
    "get_device",
    "get_model_names",
    "load_bundle",
    "load_runner",
    "register_backbone",
    "register_dataset",
    "register_model",
    "train",
    "update_bundle",
]
