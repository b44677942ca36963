"""Checks that the state of an optimizer in a checkpoint fits the optimizer, before it is used."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import SGD, Adam, AdamW, Optimizer

# Entries without which a step would fail, by type of the optimizer.
_ADAM = ("step", "exp_avg", "exp_avg_sq")
STEP_NEEDS: dict[type, tuple[str, ...]] = {SGD: (), Adam: _ADAM, AdamW: _ADAM}
# Hyperparameters of a parameter group, likewise.
HYPERPARAMETERS = {"lr", "momentum", "dampening", "weight_decay", "nesterov", "betas", "eps"}
HYPERPARAMETERS |= {"amsgrad"}


def check_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Checks the groups, and for optimizers of PyTorch the tensors of each parameter.

    Args:
        optimizer: The optimizer of this run.
        state: What its `state_dict` returned in the run that was saved.

    Raises:
        ValueError: If they do not fit; says what.
    """
    own, saved = optimizer.param_groups, state["param_groups"]
    sizes, now = ([len(group["params"]) for group in groups] for groups in (saved, own))
    if sizes != now:
        raise ValueError(
            f"the saved optimizer has parameter groups of {sizes} tensors, this one of {now}"
        )
    for k, (group, other) in enumerate(zip(own, saved, strict=True)):
        if missing := sorted(HYPERPARAMETERS & set(group) - set(other)):
            raise ValueError(f"param_groups.{k} lacks {', '.join(missing)}")
    indices = [index for group in saved for index in group["params"]]
    parameters = dict(zip(indices, (p for group in own for p in group["params"]), strict=True))
    if len(parameters) != len(indices):
        raise ValueError("param_groups name a parameter twice")
    for index, entries in state["state"].items():
        if index not in parameters:
            raise ValueError(f"state.{index} belongs to none of {len(parameters)} parameters")
        if type(optimizer) in STEP_NEEDS:
            _check_entries(f"state.{index}", entries, parameters[index], type(optimizer))


def _check_entries(
    field: str, entries: Mapping[str, Any], parameter: torch.Tensor, kind: type
) -> None:
    for name in STEP_NEEDS[kind]:
        if name not in entries:
            raise ValueError(f"{field} lacks {name}, which {kind.__name__} needs")
    for name, value in entries.items():
        if name == "step":
            if not isinstance(value, (int, float, torch.Tensor)) or (
                isinstance(value, torch.Tensor) and value.numel() != 1
            ):
                raise ValueError(f"{field}.step must be one number")
        elif value is None and not STEP_NEEDS[kind]:  # SGD without momentum
            continue
        elif not isinstance(value, torch.Tensor):
            raise ValueError(f"{field}.{name} must be a tensor, got {type(value).__name__}")
        elif (value.shape, value.dtype) != (parameter.shape, parameter.dtype):
            raise ValueError(
                f"{field}.{name} must be {parameter.dtype} {list(parameter.shape)} like its "
                f"parameter, got {value.dtype} {list(value.shape)}"
            )
