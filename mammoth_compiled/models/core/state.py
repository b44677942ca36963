"""The state of a model for a checkpoint, as plain data: everything an exact resume needs."""

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from mammoth_compiled.checkpoint import load_copy
from mammoth_compiled.errors import CheckpointError
from mammoth_compiled.models.base import ContinualModel
from mammoth_compiled.models.core.fit import check_optimizer

# Attributes that are rebuilt from the arguments, or saved elsewhere.
REBUILT = {"net", "loss", "args", "transform", "normalization_transform", "dataset", "device"}
REBUILT |= {"compute", "counters"}
REBUILT |= {"opt", "scaler", "training", "num_classes", "n_tasks", "pbar_suffix"}


def model_state(model: ContinualModel) -> dict[str, Any]:
    """Returns the state of a model, apart from the weights of its backbone.

    It contains the optimizer, the buffers, every module, every attribute that is plain data
    (numbers, strings, tensors, arrays, and lists or dictionaries of these), and every attribute
    with a `state_dict()` (a second optimizer, a scheduler). `restore_model` rebuilds modules that
    are copies of the backbone, such as a teacher. `left_out` names what cannot be saved.
    """
    net = model.net
    state: dict[str, Any] = {
        "optimizer": model.opt.state_dict(),
        "scaler": model.scaler.state_dict(),
        "frozen": _frozen(net),
        "parameters": dict(_detached(model.named_parameters(recurse=False))),
        "tensors": dict(_detached(model.named_buffers(recurse=False))),
        "modules": {},
        "buffers": {},
        "values": {},
        "left_out": [],
    }
    for name, module in model.named_children():
        if module is not net:
            state["modules"][name] = {
                "state": module.state_dict(),
                "like_net": type(module) is type(net),
                "training": module.training,
                "frozen": _frozen(module),
            }
    for name, value in vars(model).items():
        if name.startswith("_") or name in REBUILT:
            continue
        stateful = hasattr(value, "state_dict") and not isinstance(value, type)
        own = value.state_dict() if stateful else None
        if own is not None and is_plain(own):
            state["buffers"][name] = own
        elif is_plain(value):
            state["values"][name] = to_plain(value)
        elif not callable(value):
            state["left_out"].append(name)
    return state


def restore_model(model: ContinualModel, state: dict[str, Any]) -> None:
    """Restores what `model_state` returned; load the weights of the backbone first.

    Raises:
        CheckpointError: If the state does not fit the model; says which part.
    """
    part = ""
    try:
        for part, saved in state["modules"].items():
            if getattr(model, part, None) is None and saved["like_net"]:
                setattr(model, part, copy.deepcopy(model.net))
            module = getattr(model, part)
            load_weights(module, saved["state"])
            module.train(saved["training"])
            _freeze(module, saved["frozen"])
        for part, saved in state["parameters"].items():
            parameter = getattr(model, part)
            _check_dtype(part, saved, parameter)
            if saved.shape != parameter.shape:  # `copy_` would broadcast
                raise RuntimeError(
                    f"it is {list(saved.shape)}, but must be {list(parameter.shape)}"
                )
            with torch.no_grad():
                parameter.copy_(saved)
        for part, saved in state["tensors"].items():
            model.register_buffer(part, saved.to(model.device))
        for part, saved in state["values"].items():
            setattr(model, part, from_plain(saved, model.device))
        for part, saved in state["buffers"].items():
            if getattr(model, part, None) is not None:
                getattr(model, part).load_state_dict(saved)
            elif part != "custom_scheduler":  # which `begin_task` will create
                warnings.warn(
                    f"{type(model).__name__}.{part} was created while training, so that the "
                    "resumed run starts without it. Create it in the constructor",
                    stacklevel=2,
                )
        part = "opt"
        _freeze(model.net, state["frozen"])
        saved_groups = state["optimizer"]["param_groups"]
        if _group_sizes(saved_groups) != _group_sizes(model.opt.param_groups):
            # `get_parameters` may depend on the task, for which values and modules are back by now.
            model.opt = model.get_optimizer()
        check_optimizer(model.opt, state["optimizer"])
        model.opt.load_state_dict(state["optimizer"])
        model.scaler.load_state_dict(state["scaler"])
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the checkpoint does not fit {type(model).__name__}.{part}: {error}"
        ) from error


def load_weights(module: nn.Module, state: dict[str, Any]) -> None:
    """Loads a state dict into a module; `load_state_dict` alone would convert other dtypes.

    Raises:
        RuntimeError: If names, shapes or dtypes differ.
    """
    for name, tensor in module.state_dict().items():
        if isinstance(tensor, torch.Tensor) and name in state:
            _check_dtype(name, state[name], tensor)
    load_copy(module, state)


def _check_dtype(name: str, saved: torch.Tensor, own: torch.Tensor) -> None:
    if saved.dtype != own.dtype:
        raise RuntimeError(f"{name} is {saved.dtype}, but must be {own.dtype}")


def _detached(tensors: Iterator[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    return ((name, tensor.detach().cpu().clone()) for name, tensor in tensors)


def _group_sizes(groups: list[dict[str, Any]]) -> list[int]:
    return [len(group["params"]) for group in groups]


def _frozen(module: nn.Module) -> list[str]:
    return [name for name, p in module.named_parameters() if not p.requires_grad]


def _freeze(module: nn.Module, names: list[str]) -> None:
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name not in names)


def is_plain(value: Any) -> bool:
    """Returns whether a value is plain data, which a checkpoint can hold."""
    if isinstance(value, (list, tuple)):
        return all(is_plain(v) for v in value)
    if isinstance(value, dict):
        return all(isinstance(k, (str, int)) and is_plain(v) for k, v in value.items())
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biuf"
    return value is None or isinstance(value, (bool, int, float, str, torch.Tensor, np.generic))


def to_plain(value: Any) -> Any:
    """Returns a copy of plain data on the CPU; NumPy arrays become marked tensors."""
    if isinstance(value, (list, tuple)):
        return type(value)(to_plain(v) for v in value)
    if isinstance(value, dict):
        return {k: to_plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return {"__array__": torch.from_numpy(value.copy())}
    if isinstance(value, np.generic):
        return value.item()
    return value.detach().cpu().clone() if isinstance(value, torch.Tensor) else value


def from_plain(value: Any, device: torch.device) -> Any:
    """Returns what was passed to `to_plain`, with its tensors on a device."""
    if isinstance(value, dict):
        if set(value) == {"__array__"}:
            return value["__array__"].numpy()
        return {k: from_plain(v, device) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(from_plain(v, device) for v in value)
    return value.to(device) if isinstance(value, torch.Tensor) else value
