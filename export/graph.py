"""The graph that every format is written from: an eager copy of a backbone with named outputs."""

import copy
import inspect
from typing import Any

import torch
from torch import nn

from mammoth_compiled.backbones import Contract, MammothBackbone
from mammoth_compiled.errors import ExportError
from mammoth_compiled.types import DatasetInfo, ReturnTypes

INPUT = "input"


class NamedOutputs(nn.Module):
    """A backbone whose return types are outputs with a name, computed in one pass.

    Args:
        net: The backbone, in eval mode.
        contract: What it was seen to support.

    Attributes:
        input_shape: (C, H, W) of one image.
        widths: Output name to K or F, in the order of the outputs: `out`, then `features` where
            the backbone has them.
    """

    def __init__(self, net: MammothBackbone, contract: Contract) -> None:
        super().__init__()
        self.net = net
        self.input_shape = contract.input_shape
        self.widths = {"out": contract.num_classes}
        if contract.feature_dim is not None:
            self.widths["features"] = contract.feature_dim
        self._has_both = ReturnTypes.BOTH in contract.supports
        self._takes_returnt = _takes_returnt(net)
        self.eval()

    def forward(self, input: torch.Tensor) -> dict[str, torch.Tensor]:
        """Maps images [B, C, H, W] to {"out": logits [B, K], "features": features [B, F]}."""
        if "features" in self.widths and self._has_both:
            out, features = self.net(input, returnt=ReturnTypes.BOTH)
            return {"out": out, "features": features}
        return {name: self.ask(name, input) for name in self.widths}

    def ask(self, output: str, images: torch.Tensor) -> torch.Tensor:
        """Returns one output [B, width] as the backbone itself gives it for that return type."""
        if not self._takes_returnt:
            return self.net(images)
        return self.net(images, returnt=ReturnTypes(output))


def unwrap(model_or_backbone: Any) -> tuple[MammothBackbone, DatasetInfo | None]:
    """Returns the backbone and, where a model with a dataset holds it, what that dataset says.

    Args:
        model_or_backbone: A backbone or an object with a backbone `net`; both may have gone
            through `torch.compile`.

    Raises:
        ExportError: If there is no backbone in it.
    """
    holder = _original(model_or_backbone)
    if isinstance(holder, MammothBackbone):
        return holder, None
    net = _original(getattr(holder, "net", None))
    if not isinstance(net, MammothBackbone):
        raise ExportError(
            "export takes a MammothBackbone, or a model whose `net` is one, not "
            f"{type(holder).__name__}. Let the network inherit from MammothBackbone"
        )
    info = getattr(getattr(holder, "dataset", None), "info", None)
    return net, info() if callable(info) else None


def eager_copy(net: MammothBackbone) -> MammothBackbone:
    """Returns a copy of a backbone on the CPU, in eval mode, with nothing in it compiled.

    The copy is the truth that exports are compared with; `net` keeps device, mode and gradients.

    Raises:
        ExportError: If the backbone cannot be copied or has parameters other than float32.
    """
    name = type(net).__name__
    try:
        clone = copy.deepcopy(net)
    except Exception as error:  # whatever the user's attributes raise
        raise ExportError(
            f"backbone {name} cannot be copied ({type(error).__name__}: {error}). Keep in it only "
            "parameters, buffers, modules and plain values; detach() tensors kept as attributes"
        ) from error
    for module in list(clone.modules()):
        if isinstance(module, MammothBackbone):
            module.set_runner(None)
        for child_name, child in list(module._modules.items()):
            module._modules[child_name] = _original(child)
    for parameter_name, parameter in clone.named_parameters():
        if parameter.dtype != torch.float32:
            raise ExportError(
                f"backbone {name}: parameter {parameter_name!r} is {parameter.dtype}, and exports "
                "are float32. Export a float copy: copy.deepcopy(net).float()"
            )
    return clone.to("cpu").eval()


def _original(module: Any) -> Any:
    """Returns what `torch.compile` wrapped, or the module itself."""
    while isinstance(module, nn.Module) and "_orig_mod" in module._modules:
        module = module._modules["_orig_mod"]
    return module


def _takes_returnt(net: nn.Module) -> bool:
    parameters = inspect.signature(net.forward).parameters
    return "returnt" in parameters or any(
        p.kind == inspect.Parameter.VAR_KEYWORD for p in parameters.values()
    )
