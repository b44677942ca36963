"""The public names of the package; importing this registers all built-in parts."""

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
