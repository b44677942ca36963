"""Reads the weights of a network from a file, and fits them to it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from mammoth_compiled.checkpoint import load_copy
from mammoth_compiled.errors import ConfigError

# A value of `--pretrained`: the network for pretrained weights, which are loaded afterwards.
LATER = "later"
# Where files keep the weights among other things, and what they may put before each name.
_NESTS = ("state_dict", "model", "model_state_dict", "net")
_PREFIXES = ("module.", "body.", "backbone.")


def read_weights(path: str) -> dict[str, torch.Tensor]:
    """Returns the tensors of a file, by name.

    Args:
        path: A file that `torch.save` wrote (a dictionary of tensors, also within a checkpoint), or
            a `.safetensors` file.

    Raises:
        ConfigError: If it cannot be read or has no weights; gives the reason.
    """
    if not Path(path).is_file():
        raise ConfigError(f"--pretrained {path}: no such file; valid: none, hub or a file")
    content: Any
    try:
        if path.endswith(".safetensors"):
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"--pretrained {path} cannot be read: {reason}") from error
    for nest in _NESTS:
        if isinstance(content, dict) and isinstance(content.get(nest), dict):
            content = content[nest]
    weights = {
        key: value
        for key, value in (content.items() if isinstance(content, dict) else ())
        if isinstance(key, str) and isinstance(value, torch.Tensor)
    }
    if not weights:
        raise ConfigError(f"--pretrained {path} contains no tensors by name")
    for prefix in _PREFIXES:
        if any(key.startswith(prefix) for key in weights):
            weights = {k.removeprefix(prefix): v for k, v in weights.items()}
    return weights


def load_pretrained(
    net: nn.Module, weights: dict[str, torch.Tensor], source: str, ignored: Iterable[str] = ()
) -> None:
    """Loads weights into a network.

    Args:
        net: The network.
        weights: Tensors by name.
        source: Where they come from, for messages.
        ignored: Prefixes of names that the network need not have, such as those of its head.

    Raises:
        ConfigError: If a weight is missing, unknown or of another shape; names the first of each.
    """
    own = net.state_dict()
    given = {k: v for k, v in weights.items() if k in own or not k.startswith(tuple(ignored))}
    missing = [key for key in own if key not in given]
    unknown = [key for key in given if key not in own]
    shapes = [key for key in own if key in given and own[key].shape != given[key].shape]
    if missing or unknown or shapes:
        found = {"missing": missing, "unknown": unknown, "of another shape": shapes}
        parts = [f"{len(keys)} {what} ({keys[0]})" for what, keys in found.items() if keys]
        raise ConfigError(f"weights {source} do not fit {type(net).__name__}: {', '.join(parts)}")
    load_copy(net, given)


def adapt_first_conv(net: nn.Module, in_channels: int) -> None:
    """Replaces the first convolution by one for another number of channels.

    The weights are summed over the old channels and spread over the new ones, so that a gray image
    gives what the same image in color gave.
    """
    for name, conv in net.named_modules():
        if not isinstance(conv, nn.Conv2d):
            continue
        if conv.in_channels != in_channels:
            parent, _, key = name.rpartition(".")
            new = nn.Conv2d(
                in_channels,
                conv.out_channels,
                conv.kernel_size,  # type: ignore[arg-type]
                conv.stride,  # type: ignore[arg-type]
                conv.padding,  # type: ignore[arg-type]
                bias=conv.bias is not None,
            )
            with torch.no_grad():
                weight = conv.weight.sum(1, keepdim=True) / in_channels
                new.weight.copy_(weight.expand_as(new.weight))
                if new.bias is not None and conv.bias is not None:
                    new.bias.copy_(conv.bias)
            setattr(net.get_submodule(parent), key, new)
        return
