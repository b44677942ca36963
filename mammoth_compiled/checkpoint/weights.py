"""Loads copies of state dicts, which lack what a state dict has beside its tensors."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import nn


def load_copy(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Loads a copy of a state dict, such as that in a checkpoint.

    A copy lacks the versions of the modules, without which some modules, such as torchvision's
    MNASNet, refuse it. It is taken to have those of the module.

    Args:
        module: The module.
        state: Its tensors by name.

    Raises:
        RuntimeError: If names or shapes differ.

    Example:
        >>> layer = nn.BatchNorm1d(2)
        >>> load_copy(layer, {name: value.clone() for name, value in layer.state_dict().items()})
    """
    versioned: Any = OrderedDict(state)
    versioned._metadata = module.state_dict()._metadata  # type: ignore[attr-defined]
    module.load_state_dict(versioned)
