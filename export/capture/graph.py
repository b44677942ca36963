"""The module that every format is written from: an eager backbone with named outputs."""

import copy
import inspect
from collections.abc import Sequence
from typing import Self

import torch
from torch import nn

from mammoth_compiled.backbones import Contract, MammothBackbone
from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.capture.interface import FULL_PREFIX, Interface
from mammoth_compiled.export.capture.options import Options, make_head, make_preprocessing
from mammoth_compiled.types import DatasetInfo, ReturnTypes


class NamedOutputs(nn.Module):
    """A backbone whose return types are named outputs of a single forward pass.

    Args:
        net: The backbone, in eval mode.
        contract: The return types it supports, as probed.
        options: The stages in front of and behind the backbone.
        info: The training data, for options that need it.

    Attributes:
        interface: Names, dtypes and shapes of the input and the outputs.
        selected: The outputs that `forward` computes; all by default.

    Raises:
        ExportError: If the options need unknown facts, or the backbone does not support FULL.
    """

    def __init__(
        self,
        net: MammothBackbone,
        contract: Contract,
        options: Options = Options(),  # noqa: B008 (frozen)
        info: DatasetInfo | None = None,
    ) -> None:
        super().__init__()
        self.preprocessing = make_preprocessing(options, info)
        self.net = net
        self.head = make_head(options, info, contract.num_classes)
        self._has_both = ReturnTypes.BOTH in contract.supports
        self._takes_returnt = _takes_returnt(net)
        # Outputs that share memory with the input or another output.
        self._aliases: set[str] = set()
        self.eval()
        self.interface = self._infer_interface(contract, options)
        self.selected = tuple(self.interface.outputs)

    def forward(self, input: torch.Tensor) -> dict[str, torch.Tensor]:
        """Computes the selected outputs, in their order.

        Args:
            input: Images [B, C, H, W], or pixels [B, H, W, C] if preprocessing is folded in.

        Returns:
            {"out": [B, K], "features": [B, F], "full_0": [B, c, h, w], ...}.
        """
        return self.compute(input, self.selected)

    def compute(self, input: torch.Tensor, outputs: Sequence[str]) -> dict[str, torch.Tensor]:
        """Computes the given outputs, in the given order; see `forward`."""
        return self.compute_from(self.preprocessing(input), outputs)

    def compute_from(self, images: torch.Tensor, outputs: Sequence[str]) -> dict[str, torch.Tensor]:
        """Computes the given outputs from normalized images [B, C, H, W]; see `compute`."""
        if not self._takes_returnt:
            return {"out": self.head(self.net(images))}
        results = {}
        if any(name.startswith(FULL_PREFIX) for name in outputs):
            logits, maps = self.net(images, returnt=ReturnTypes.FULL)
            results = {f"{FULL_PREFIX}{i}": value for i, value in enumerate(maps)} | {"out": logits}
        elif {"out", "features"} <= set(outputs) and self._has_both:
            logits, features = self.net(images, returnt=ReturnTypes.BOTH)
            results = {"out": logits, "features": features}
        for name in outputs:
            if name not in results:
                results[name] = self.net(images, returnt=ReturnTypes(name))
        if "out" in results:
            results["out"] = self.head(results["out"])
        # In a graph, every output needs a tensor of its own.
        return {n: results[n].clone() if n in self._aliases else results[n] for n in outputs}

    def select(self, outputs: Sequence[str]) -> Self:
        """Returns a graph that shares all modules and computes only the given outputs."""
        graph = copy.copy(self)
        graph.selected = tuple(outputs)
        return graph

    def compute_alone(self, output: str, input: torch.Tensor) -> torch.Tensor:
        """Returns one output [B, ...], computed by asking the backbone for it alone."""
        return self.compute(input, (output,))[output]

    def _infer_interface(self, contract: Contract, options: Options) -> Interface:
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
                _, maps = self.net(self.preprocessing(example), returnt=ReturnTypes.FULL)
            names += [f"{FULL_PREFIX}{i}" for i in range(len(maps))]
        with torch.no_grad():
            outputs = self.compute(example, names)
        memory = {example.untyped_storage().data_ptr()}
        for name, value in outputs.items():
            where = value.untyped_storage().data_ptr()
            if where in memory:
                self._aliases.add(name)
            memory.add(where)
        shapes = {name: tuple(value.shape[1:]) for name, value in outputs.items()}
        return Interface(contract.input_shape, shapes, options.fold_preprocessing)


def _takes_returnt(net: nn.Module) -> bool:
    parameters = inspect.signature(net.forward).parameters
    return "returnt" in parameters or any(
        p.kind == inspect.Parameter.VAR_KEYWORD for p in parameters.values()
    )
