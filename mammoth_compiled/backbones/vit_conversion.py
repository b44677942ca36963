"""Copies vision transformers of torchvision and timm into ours, which methods can extend."""

import re
from typing import Any

import torch
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionViT

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.backbones.library import LibraryBackbone
from mammoth_compiled.backbones.vit import VisionTransformer
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.types import ReturnTypes

# From torchvision's names to ours.
_RENAMES = (
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^class_token$", "cls_token"),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.ln\.", "norm."),
    (r"^encoder\.layers\.encoder_layer_", "blocks."),
    (r"\.ln_(\d)\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
)
_VALID = "vit-tiny, tv:vit_b_16, timm:vit_base_patch16_224, ..."


def as_vit(net: MammothBackbone) -> VisionTransformer:
    """Returns a backbone as a `VisionTransformer` with the same weights and outputs.

    Args:
        net: `vit-tiny`, or a plain vision transformer of torchvision or timm: a class token, norms
            before attention and MLP. It is returned itself or copied.

    Raises:
        ConfigError: If it is not one.

    Example:
        >>> import torch
        >>> from mammoth_compiled.registry import backbones
        >>> net = backbones["timm:test_vit"].target(num_classes=3).eval()
        >>> images = torch.rand(2, 3, 32, 32)
        >>> torch.allclose(as_vit(net)(images), net(images), atol=1e-5)
        True
    """
    if isinstance(net, VisionTransformer):
        return net
    try:
        copy = _copy(net) if isinstance(net, LibraryBackbone) else None
    except (AttributeError, IndexError, KeyError, RuntimeError, ValueError):
        copy = None
    if copy is None or not _agree(net, copy):
        name = type(getattr(net, "body", net)).__name__
        raise ConfigError(
            f"this model needs a plain vision transformer ({_VALID}), but the backbone is a {name}"
        )
    return copy


def _copy(net: LibraryBackbone) -> VisionTransformer:
    body: Any = net.body
    state = dict(body.state_dict())
    if isinstance(body, TorchvisionViT):
        for pattern, ours in _RENAMES:
            state = {re.sub(pattern, ours, key): value for key, value in state.items()}
        num_heads = body.encoder.layers[0].self_attention.num_heads
        eps = body.encoder.ln.eps
    else:
        num_heads = body.blocks[0].attn.num_heads
        eps = body.blocks[0].norm1.eps
    state = _without_scales(state)
    patch = state["patch_embed.proj.weight"]
    side = net.resize or _image_size(body)
    position = state["pos_embed"]
    if position.shape[1] == (side[0] // patch.shape[-1]) * (side[1] // patch.shape[-1]):
        # Some have none for the class token.
        state["pos_embed"] = torch.cat((torch.zeros_like(position[:, :1]), position), 1)
    copy = VisionTransformer(
        num_classes=net.classifier.out_features,
        width=patch.shape[0],
        depth=len({key.split(".")[1] for key in state if key.startswith("blocks.")}),
        num_heads=num_heads,
        patch_size=patch.shape[-1],
        input_size=side,
        in_channels=patch.shape[1],
        mlp_ratio=state["blocks.0.mlp.fc1.weight"].shape[0] / patch.shape[0],
        resize=net.resize,
    )
    for module in copy.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = eps
    state |= {f"classifier.{key}": value for key, value in net.classifier.state_dict().items()}
    for key, value in copy.state_dict().items():
        if key.endswith("bias") and key not in state:  # a layer without bias
            state[key] = torch.zeros_like(value)
    copy.load_state_dict(state)
    return copy.to(patch.device)


def _image_size(body: Any) -> tuple[int, ...]:
    size = body.image_size if isinstance(body, TorchvisionViT) else body.patch_embed.img_size
    return tuple(size) if isinstance(size, (tuple, list)) else (size, size)


def _without_scales(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Multiplies the scales of timm's `LayerScale` into the layers before them."""
    result = {key: value for key, value in state.items() if not key.endswith(".gamma")}
    for key, gamma in state.items():
        if key.endswith(".gamma"):
            block, name, _ = key.rsplit(".", 2)
            layer = f"{block}.attn.proj" if name == "ls1" else f"{block}.mlp.fc2"
            result[f"{layer}.weight"] = gamma[:, None] * state[f"{layer}.weight"]
            result[f"{layer}.bias"] = gamma * state[f"{layer}.bias"]
    return result


@torch.no_grad()
def _agree(net: MammothBackbone, copy: VisionTransformer) -> bool:
    """Returns whether the copy computes the same features in eval mode."""
    training = [module for module in net.modules() if module.training]
    patch = copy.patch_embed.proj
    height, width = copy.input_size
    images = torch.linspace(-1, 1, patch.in_channels * height * width, device=patch.weight.device)
    images = images.view(1, patch.in_channels, height, width)
    net.eval()
    try:
        expected = net.forward(images, returnt=ReturnTypes.FEATURES)
        found = copy.forward(images, returnt=ReturnTypes.FEATURES)
        tolerance = 1e-3 * expected.abs().max().item()
        return bool(torch.allclose(found, expected, rtol=1e-3, atol=tolerance))
    finally:
        for module in training:
            module.training = True
