"""The backbones; importing the package registers every module in it."""

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.backbones.batch_norm import bn_track_stats
from mammoth_compiled.backbones.contract import Contract, probe
from mammoth_compiled.plugins import import_submodules

import_submodules(__name__, __path__)

__all__ = ["Contract", "MammothBackbone", "bn_track_stats", "probe"]
