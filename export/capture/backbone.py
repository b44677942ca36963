"""Finds the backbone in what the user passes, and makes the eager copy that is exported."""

import copy
from typing import Any

import torch
from torch import nn

from mammoth_compiled.backbones import MammothBackbone
from mammoth_compiled.errors import ExportError
from mammoth_compiled.types import DatasetInfo


def unwrap(model_or_backbone: Any) -> tuple[MammothBackbone, DatasetInfo | None]:
    """Returns the backbone and, if it belongs to a model with a dataset, that dataset's info.

    Args:
        model_or_backbone: A backbone, or an object with a backbone `net`. Either may be wrapped by
            `torch.compile`.

    Raises:
        ExportError: If there is no backbone in it.
    """
    holder = _uncompiled(model_or_backbone)
    if isinstance(holder, MammothBackbone):
        return holder, None
    deployed = getattr(holder, "deployed_net", None)
    net = _uncompiled(deployed() if callable(deployed) else getattr(holder, "net", None))
    if not isinstance(net, MammothBackbone):
        raise ExportError(
            "export takes a MammothBackbone, or a model whose `net` is one, not "
            f"{type(holder).__name__}. Let the network inherit from MammothBackbone"
        )
    info = getattr(getattr(holder, "dataset", None), "info", None)
    return net, info() if callable(info) else None


def name_of(model_or_backbone: Any) -> str:
    """Returns the registered name of the backbone if its model knows it, else its class name."""
    holder = _uncompiled(model_or_backbone)
    registered = getattr(getattr(holder, "args", None), "backbone", None)
    return str(registered or type(unwrap(holder)[0]).__name__)


def eager_copy(net: MammothBackbone) -> MammothBackbone:
    """Returns a copy of a backbone on the CPU, in eval mode, with nothing in it compiled.

    Exports are compared with this copy; `net` keeps its device, mode and gradients.

    Raises:
        ExportError: If the backbone cannot be copied or has parameters other than float32.
    """
    name = type(net).__name__
    try:
        clone = copy.deepcopy(net)
    except Exception as error:  # user attributes may raise anything
        raise ExportError(
            f"backbone {name} cannot be copied ({type(error).__name__}: {error}). Keep in it only "
            "parameters, buffers, modules and plain values; detach() tensors kept as attributes"
        ) from error
    for module in list(clone.modules()):
        if isinstance(module, MammothBackbone):
            module.set_runner(None)
        for child_name, child in list(module._modules.items()):
            module._modules[child_name] = _uncompiled(child)
    for parameter_name, parameter in clone.named_parameters():
        if parameter.dtype != torch.float32:
            raise ExportError(
                f"backbone {name}: parameter {parameter_name!r} is {parameter.dtype}, and exports "
                "are float32. Export a float copy: copy.deepcopy(net).float()"
            )
    clone = clone.to("cpu").eval()
    for tensor in (*clone.parameters(), *clone.buffers()):
        # Files store values in the order of the dimensions; weights may be channels-last.
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    return clone


def _uncompiled(module: Any) -> Any:
    """Returns the module that `torch.compile` wrapped, or the module itself."""
    while isinstance(module, nn.Module) and "_orig_mod" in module._modules:
        module = module._modules["_orig_mod"]
    return module
