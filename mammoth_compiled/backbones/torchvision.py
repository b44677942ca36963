"""The classifiers of torchvision, by the prefix `tv:`."""

from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from mammoth_compiled.backbones.library import (
    DEFAULT_SIDE,
    LibraryBackbone,
    Size,
    library_backbone,
    unknown_network,
)
from mammoth_compiled.backbones.pretrained import (
    LATER,
    adapt_first_conv,
    load_pretrained,
    read_weights,
)
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.registry import register_backbone_family

# Names of auxiliary classifiers, which are left out.
_AUXILIARY = ("aux", "AuxLogits")


def classifier_names() -> list[str]:
    """Returns the names of torchvision's classifiers."""
    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names


@register_backbone_family("tv")
def find(name: str) -> tuple[str, Callable[..., LibraryBackbone]]:
    """Any classifier of torchvision: tv:resnet18, tv:vit_b_16, tv:convnext_tiny, ..."""
    known = name.replace("-", "_")
    if known not in classifier_names():
        listing = "torchvision.models.list_models(module=torchvision.models)"
        raise unknown_network("torchvision", known, classifier_names(), listing)

    def prepare(
        in_channels: int, pretrained: str, arguments: dict[str, Any]
    ) -> tuple[Callable[[Size], nn.Module], int | None, int]:
        weights = _read(known, pretrained)

        def make(size: Size) -> nn.Module:
            net = _body(known, size, arguments)
            if weights is not None:
                _load(net, weights, f"{pretrained} of tv:{known}")
            adapt_first_conv(net, in_channels)
            return net

        side = _pretraining_side(known)
        return make, None if pretrained == "none" else side, side

    return known, library_backbone(f"tv:{known}", "torchvision", prepare)


def _body(name: str, size: Size, arguments: dict[str, Any]) -> nn.Module:
    """Returns a network without its last layer, for images of a size."""
    extra: dict[str, Any] = {}
    if name.startswith("vit_"):
        extra["image_size"] = size[0]
    elif name.startswith("maxvit"):
        extra["input_size"] = size
    elif name in ("googlenet", "inception_v3"):
        extra |= {"aux_logits": False, "init_weights": True}
    return without_head(torchvision.models.get_model(name, **{**extra, **arguments}))


def without_head(net: nn.Module) -> nn.Module:
    """Returns a classifier of torchvision that gives features: its last layer passes them on."""
    last = _last_linear(net)
    if last:
        parent, _, key = last.rpartition(".")
        setattr(net.get_submodule(parent), key, nn.Identity())
    elif hasattr(net, "classifier"):  # SqueezeNet, whose classifier is a convolution
        net.classifier = nn.AdaptiveAvgPool2d(1)
    return net


def _last_linear(net: nn.Module) -> str:
    """Returns the name of the last layer if it is linear, else ""."""
    *_, (name, last) = net.named_modules()
    return name if isinstance(last, nn.Linear) else ""


def _read(name: str, pretrained: str) -> dict[str, torch.Tensor] | None:
    """Returns pretrained weights by name, None if there are to be none.

    Raises:
        ConfigError: If they cannot be read or downloaded.
    """
    if pretrained in ("none", LATER):
        return None
    if pretrained != "hub":
        return read_weights(pretrained)
    weights = torchvision.models.get_model_weights(name).DEFAULT
    try:
        state: dict[str, torch.Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"--pretrained hub: the weights of tv:{name} could not be downloaded from "
            f"{weights.url} ({error}). Copy that file here and give --pretrained FILE"
        ) from error
    return state


def _pretraining_side(name: str) -> int:
    """Returns the side of the images that the default weights were trained on, pixels."""
    weights = torchvision.models.get_model_weights(name).DEFAULT
    crop = getattr(weights.transforms(), "crop_size", [DEFAULT_SIDE])
    return int(crop[0])


def _load(net: nn.Module, weights: dict[str, torch.Tensor], source: str) -> None:
    """Loads weights, leaving out those of the classifiers."""
    if isinstance(net, VisionTransformer) and "encoder.pos_embedding" in weights:
        weights = interpolate_embeddings(net.image_size, net.patch_size, weights.copy())
    heads = ("fc.", "head.", "heads.", "classifier.", *_AUXILIARY)
    load_pretrained(net, weights, source, heads)
