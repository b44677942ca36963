"""The optimizer that the arguments of a run ask for."""

from collections.abc import Iterable
from typing import Any

import torch

from mammoth_compiled.config.schema import OptimizerConfig
from mammoth_compiled.errors import ConfigError

# Parameters, or groups of them as torch's optimizers take them.
Parameters = Iterable[torch.Tensor] | Iterable[dict[str, Any]]


def build_optimizer(
    config: OptimizerConfig, params: Parameters, lr: float | None = None
) -> torch.optim.Optimizer:
    """Returns an optimizer.

    Args:
        config: Name and settings.
        params: Parameters or parameter groups.
        lr: Learning rate of groups without one; None takes that of `config`.

    Raises:
        ConfigError: If the optimizer is unknown; lists the valid ones.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> groups = [{"params": [weight], "lr": 0.5}]
        >>> optimizer = build_optimizer(OptimizerConfig(lr=0.1), groups)
        >>> optimizer.param_groups[0]["lr"]
        0.5
    """
    groups: list[Any] = [
        {**p, "params": flat_parameters([p])} if isinstance(p, dict) else p for p in params
    ]
    lr = config.lr if lr is None else lr
    decay = config.optim_wd
    # The fused implementation updates all parameters in one loop.
    fused = all(
        p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in flat_parameters(groups)
    )
    name = config.optimizer.lower()
    if name == "sgd":
        return torch.optim.SGD(
            groups,
            lr,
            config.optim_mom,
            weight_decay=decay,
            nesterov=config.optim_nesterov,
            fused=fused,
        )
    if name == "adam":
        return torch.optim.Adam(groups, lr, weight_decay=decay, fused=fused)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr, weight_decay=decay, fused=fused)
    raise ConfigError(f"unknown optimizer {name!r}; valid: adam, adamw, sgd")


def flat_parameters(params: Parameters) -> list[torch.Tensor]:
    """Returns the parameters of parameter groups, or a list of parameters as it is."""
    flat: list[torch.Tensor] = []
    for item in params:
        parameters = item["params"] if isinstance(item, dict) else item
        flat += [parameters] if isinstance(parameters, torch.Tensor) else parameters
    return flat
