"""The backbones; importing the package registers the built-in ones."""

from mammoth_compiled.backbones import attention, cnn, mlp, resnet
from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.backbones.contract import Contract, probe

__all__ = ["Contract", "MammothBackbone", "attention", "cnn", "mlp", "probe", "resnet"]
