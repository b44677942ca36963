"""The graph that every format is written from: an eager copy of a backbone with named outputs."""

import copy
import inspect
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import nn

from mammoth_compiled.backbones import Contract, MammothBackbone
from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.capture.interface import FULL_PREFIX, Interface
from mammoth_compiled.export.capture.options import Options, before, behind
from mammoth_compiled.types import DatasetInfo, ReturnTypes


class NamedOutputs(nn.Module):
    """A backbone whose return types are outputs with a name, computed in one pass.

    Args:
        net: The backbone, in eval mode.
        contract: What it was seen to support.
        options: What to put before and behind it.
        info: The training data, for options that need it.

    Attributes:
        interface: What goes in and comes out.
        selected: The outputs that `forward` computes, all by default.

    Raises:
        ExportError: If the options need what is not known, or the backbone has no FULL.
    """

    def __init__(
        self,
        net: MammothBackbone,
        contract: Contract,
        options: Options = Options(),  # noqa: B008 (frozen)
        info: DatasetInfo | None = None,
    ) -> None:
        super().__init__()
        self.before = before(options, info)
        self.net = net
        self.behind = behind(options, info, contract.num_classes)
        self._has_both = ReturnTypes.BOTH in contract.supports
        self._takes_returnt = _takes_returnt(net)
        self.eval()
        self.interface = self._measure(contract, options)
        self.selected = tuple(self.interface.outputs)

    def forward(self, input: torch.Tensor) -> dict[str, torch.Tensor]:
        """Maps the input to the selected outputs, in their order.

        Args:
            input: Images [B, C, H, W], or pixels [B, H, W, C] with folded preprocessing.

        Returns:
            {"out": [B, K], "features": [B, F], "full_0": [B, c, h, w], ...}.
        """
        return self.compute(input, self.selected)

    def compute(self, input: torch.Tensor, wanted: Sequence[str]) -> dict[str, torch.Tensor]:
        """Returns some outputs, in the order of `wanted`; see `forward`."""
        images = self.before(input)
        if not self._takes_returnt:
            return {"out": self.behind(self.net(images))}
        results = {}
        if any(name.startswith(FULL_PREFIX) for name in wanted):
            logits, maps = self.net(images, returnt=ReturnTypes.FULL)
            results = {f"{FULL_PREFIX}{i}": value for i, value in enumerate(maps)} | {"out": logits}
        elif {"out", "features"} <= set(wanted) and self._has_both:
            logits, features = self.net(images, returnt=ReturnTypes.BOTH)
            results = {"out": logits, "features": features}
        for name in wanted:
            if name not in results:
                results[name] = self.net(images, returnt=ReturnTypes(name))
        if "out" in results:
            results["out"] = self.behind(results["out"])
        return {name: results[name] for name in wanted}

    def only(self, outputs: Sequence[str]) -> Self:
        """Returns a graph of the same modules that computes some outputs only."""
        graph = copy.copy(self)
        graph.selected = tuple(outputs)
        return graph

    def ask(self, output: str, input: torch.Tensor) -> torch.Tensor:
        """Returns one output [B, ...] as the backbone gives it for that return type alone."""
        return self.compute(input, (output,))[output]

    def _measure(self, contract: Contract, options: Options) -> Interface:
        """Runs the graph once to learn the shapes of its outputs."""
        example = Interface(contract.input_shape, {}, options.fold_preprocessing).example(2)
        names = ["out"]
        if contract.feature_dim is not None:
            names.append("features")
        if options.full:
            if ReturnTypes.FULL not in contract.supports:
                raise ExportError(
                    f"full=True, but backbone {type(self.net).__name__} does not answer "
                    "returnt='full' with the tuple (logits, list of stage maps)"
                )
            with torch.no_grad():
                _, maps = self.net(self.before(example), returnt=ReturnTypes.FULL)
            names += [f"{FULL_PREFIX}{i}" for i in range(len(maps))]
        with torch.no_grad():
            outputs = self.compute(example, names)
        shapes = {name: tuple(value.shape[1:]) for name, value in outputs.items()}
        return Interface(contract.input_shape, shapes, options.fold_preprocessing)


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


def name_of(model_or_backbone: Any) -> str:
    """Returns what the backbone was registered as where the model knows it, else its class."""
    holder = _original(model_or_backbone)
    registered = getattr(getattr(holder, "args", None), "backbone", None)
    return str(registered or type(unwrap(holder)[0]).__name__)


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
    clone = clone.to("cpu").eval()
    for tensor in (*clone.parameters(), *clone.buffers()):
        # Formats store bytes in the order of the axes, channels-last weights for example too.
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    return clone


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
