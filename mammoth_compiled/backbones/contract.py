"""Probes which return types a backbone supports, and checks its outputs against the contract."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.errors import ContractError
from mammoth_compiled.types import ReturnTypes


@dataclass(frozen=True)
class Contract:
    """The outputs that a backbone supports.

    Attributes:
        input_shape: Shape of the images it was probed with, (C, H, W).
        num_classes: Width of the logits, K.
        feature_dim: Width of the features, F; None if the backbone returns none.
        supports: The supported return types.
    """

    input_shape: tuple[int, int, int]
    num_classes: int
    feature_dim: int | None
    supports: tuple[ReturnTypes, ...]


def probe(
    net: nn.Module, input_shape: tuple[int, int, int], num_classes: int | None = None
) -> Contract:
    """Calls a backbone with every return type and checks that the outputs agree.

    Runs in eval mode on two random images. Weights, training mode and random state are unchanged.

    Args:
        net: The backbone.
        input_shape: Shape of one image, (C, H, W).
        num_classes: Required width of the logits, K; None accepts any.

    Returns:
        What the backbone supports.

    Raises:
        ContractError: If logits are not [B, K], features are not [B, F], or `both` is not
            (out, features).

    Example:
        >>> from mammoth_compiled.backbones.mlp import MNISTMLP
        >>> contract = probe(MNISTMLP(num_classes=10), input_shape=(1, 28, 28))
        >>> contract.feature_dim, [str(returnt) for returnt in contract.supports]
        (100, ['out', 'features', 'both'])
    """
    name = type(net).__name__
    if not isinstance(net, MammothBackbone):
        raise ContractError(f"backbone {name} must inherit from MammothBackbone")
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, *input_shape, generator=generator).to(device)
    was_training = [m for m in net.modules() if m.training]
    cuda = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(cuda), torch.no_grad():
            net.eval()
            outputs, failures = _call_all(net, images)
    finally:
        for module in was_training:
            module.training = True
    out = outputs.get(ReturnTypes.OUT)
    if out is None:
        reason = failures.get(ReturnTypes.OUT, "the output is not a tensor")
        raise ContractError(
            f"backbone {name} returns no logits for images of shape {tuple(input_shape)}: "
            f"{reason}. Check the input size and number of channels that its layers expect"
        )
    if out.dim() != 2 or len(out) != 2 or (num_classes is not None and out.shape[1] != num_classes):
        width = "K" if num_classes is None else str(num_classes)
        raise ContractError(
            f"backbone {name}: out must have shape [B, {width}] (num_classes = {width}), but a "
            f"batch of 2 gave {list(out.shape)}. Pass num_classes to the last layer"
        )
    features = outputs.get(ReturnTypes.FEATURES)
    if features is not None and (features.dim() != 2 or len(features) != 2):
        raise ContractError(
            f"backbone {name}: features must have shape [B, F], but a batch of 2 gave "
            f"{list(features.shape)}. Flatten them with x.flatten(1)"
        )
    both = outputs.get(ReturnTypes.BOTH)
    if both is not None:
        _check_pair(name, both, out, features)
    return Contract(
        input_shape=input_shape,
        num_classes=out.shape[1],
        feature_dim=None if features is None else features.shape[1],
        supports=tuple(returnt for returnt in ReturnTypes if returnt in outputs),
    )


def _call_all(
    net: MammothBackbone, images: torch.Tensor
) -> tuple[dict[ReturnTypes, Any], dict[ReturnTypes, str]]:
    """Returns the outputs of the right type, and the reasons why others are missing."""
    outputs: dict[ReturnTypes, Any] = {}
    failures: dict[ReturnTypes, str] = {}
    for returnt in ReturnTypes:
        try:
            output = net(images, returnt=returnt)
        except Exception as error:  # user code may raise anything
            if returnt == ReturnTypes.OUT:
                # A network without the argument `returnt` still has logits.
                output, failures[returnt] = _call_plain(net, images, error)
            else:
                failures[returnt] = f"{type(error).__name__}: {error}"
                continue
        if _has_type(output, returnt):
            outputs[returnt] = output
    return outputs, failures


def _call_plain(net: MammothBackbone, images: torch.Tensor, error: Exception) -> tuple[Any, str]:
    if isinstance(error, TypeError):
        try:
            return net(images), ""
        except Exception as plain_error:
            error = plain_error
    return None, f"{type(error).__name__}: {error}"


def _has_type(output: Any, returnt: ReturnTypes) -> bool:
    if returnt in (ReturnTypes.OUT, ReturnTypes.FEATURES):
        return isinstance(output, torch.Tensor)
    if not (isinstance(output, (tuple, list)) and len(output) == 2):
        return False
    if returnt == ReturnTypes.BOTH:
        return all(isinstance(part, torch.Tensor) for part in output)
    return isinstance(output[1], (tuple, list))


def _check_pair(name: str, both: Any, out: torch.Tensor, features: torch.Tensor | None) -> None:
    alone = {"out": out} if features is None else {"out": out, "features": features}
    for (part, expected), actual in zip(alone.items(), both, strict=False):
        if actual.shape == expected.shape:
            difference = (actual - expected).abs().max().item() if expected.numel() else 0.0
            if difference <= 1e-5 + 1e-4 * expected.abs().max().item():
                continue
            reason = f"differs by up to {difference:.3g}"
        else:
            reason = f"has shape {list(actual.shape)} instead of {list(expected.shape)}"
        raise ContractError(
            f"backbone {name}: returnt='both' must be the tuple (out, features) of the same input "
            f"in eval mode, but its {part} {reason}"
        )
