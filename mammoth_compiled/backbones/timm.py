"""The networks of timm, by the prefix `timm:`."""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

from torch import nn

from mammoth_compiled.backbones.library import (
    DEFAULT_SIDE,
    LibraryBackbone,
    Size,
    library_backbone,
    unknown_network,
)
from mammoth_compiled.backbones.pretrained import LATER, read_weights
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.registry import register_backbone_family


@register_backbone_family("timm")
def find(name: str) -> tuple[str, Callable[..., LibraryBackbone]]:
    """Any network of timm (pip install timm): timm:vit_tiny_patch16_224, timm:resnet18, ..."""
    timm = _import_timm()
    known = name.replace("-", "_")
    if not timm.models.is_model(known) or _has_unknown_tag(timm, known):
        names = [*timm.list_models(), *timm.list_pretrained()]
        raise unknown_network("timm", known, names, "timm.list_models()")

    def prepare(
        in_channels: int, pretrained: str, arguments: dict[str, Any]
    ) -> tuple[Callable[[Size], nn.Module], int | None, int]:
        config = timm.models.get_pretrained_cfg(known)
        designed = config.input_size[-1] if config else DEFAULT_SIDE
        side = None
        if pretrained != "none":
            side = designed if config else None
            arguments = {**arguments, **_weights(pretrained)}

        def make(size: Size) -> nn.Module:
            fixed = config is not None and config.fixed_input_size
            extra = {"img_size": size} if fixed else {}
            net = _create(timm, known, {"in_chans": in_channels, **extra, **arguments})
            _check_patches(net, size)
            return net

        return make, side, designed

    return known, library_backbone(f"timm:{known}", "timm", prepare)


def _import_timm() -> ModuleType:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise ConfigError(
            f"backbones timm:NAME need timm ({error}): pip install timm. torchvision's networks "
            "need nothing else: tv:NAME"
        ) from error


def _has_unknown_tag(timm: Any, name: str) -> bool:
    architecture, _, tag = name.partition(".")
    return bool(tag) and name not in timm.list_pretrained(f"{architecture}.*")


def _check_patches(net: Any, size: Size) -> None:
    """Raises `ValueError` if patches do not cover the images; timm would drop the rest."""
    patch = getattr(getattr(net, "patch_embed", None), "patch_size", None)
    if isinstance(patch, (tuple, list)) and any(s % p for s, p in zip(size, patch, strict=True)):
        raise ValueError(f"patches of {patch[0]}x{patch[1]} pixels do not divide them")


def _weights(pretrained: str) -> dict[str, Any]:
    """Returns the arguments of `timm.create_model` for pretrained weights."""
    if pretrained == LATER:
        return {}
    if pretrained == "hub":
        return {"pretrained": True}
    overlay = {"state_dict": read_weights(pretrained)}
    return {"pretrained": True, "pretrained_cfg_overlay": overlay}


def _create(timm: Any, name: str, arguments: dict[str, Any]) -> nn.Module:
    """Builds a network without its classifier.

    Raises:
        ConfigError: If its weights cannot be downloaded or do not fit.
    """
    try:
        net: nn.Module = timm.create_model(name, num_classes=0, **arguments)
        return net
    except Exception as error:  # whatever the libraries below raise
        if "img_size" in arguments and isinstance(error, TypeError) and "img_size" in str(error):
            others = {key: value for key, value in arguments.items() if key != "img_size"}
            return _create(timm, name, others)
        if not arguments.get("pretrained"):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"--pretrained: the weights of timm:{name} could not be loaded: {reason}. Without a "
            "network, download them elsewhere and give --pretrained FILE"
        ) from error
