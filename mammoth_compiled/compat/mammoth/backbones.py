"""Mammoth's `backbone`."""

import inspect
from argparse import Namespace

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.registry import backbones, register_backbone
from mammoth_compiled.types import ReturnTypes

__all__ = ["MammothBackbone", "ReturnTypes", "get_backbone", "register_backbone"]


def get_backbone(args: Namespace) -> MammothBackbone:
    """Builds the backbone of a run again, with new weights.

    Args:
        args: The arguments of the run, as its model has them.
    """
    entry = backbones[args.backbone]
    options = {parameter.name: vars(args)[parameter.name] for parameter in entry.parameters}
    if "num_classes" in inspect.signature(entry.target).parameters:
        options["num_classes"] = args.num_classes
    net: MammothBackbone = entry.target(**options)
    return net
