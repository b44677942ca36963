"""Explains how the backbone of a run is compiled, without training."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mammoth_compiled.backbones import MammothBackbone, probe
from mammoth_compiled.compiler import counters
from mammoth_compiled.compiler.compat import compile_function
from mammoth_compiled.compiler.explain import Explanation, explain
from mammoth_compiled.datasets.base import EVAL_BATCH_SIZE, ContinualDataset
from mammoth_compiled.engine.forward import forward_function
from mammoth_compiled.models.base import ContinualModel
from mammoth_compiled.types import ReturnTypes


@dataclass(frozen=True)
class CallGraphs:
    """The graphs of one kind of call of the backbone in a run.

    Attributes:
        call: Mode and batch size.
        graphs: Graphs that its first call made; 0 if those of an earlier kind serve it.
        guard: The guard of those graphs that it failed, "" if it was the first.
        repeated: Graphs that the same call made when repeated: above 0, every step recompiles.
        repeated_guard: The guard that failed then.
    """

    call: str
    graphs: int
    guard: str = ""
    repeated: int = 0
    repeated_guard: str = ""

    def __str__(self) -> str:
        text = f"{self.call}: {self.graphs} new graph(s)"
        if self.guard:
            text += f", because this guard failed: {self.guard}"
        if self.repeated:
            text += (
                f". The same call is recompiled, because this guard fails: {self.repeated_guard}"
            )
        return text


@dataclass(frozen=True)
class BackboneExplanation:
    """How the backbone of a run is compiled.

    Attributes:
        title: The backbone, the device and the images.
        entries: Return type to what became of its call.
        calls: The kinds of call that a run makes with `returnt="out"`, in their order.
    """

    title: str
    entries: Mapping[str, Explanation]
    calls: Sequence[CallGraphs]

    def __str__(self) -> str:
        lines = [self.title]
        lines += [f"returnt={returnt!r}: {entry}" for returnt, entry in self.entries.items()]
        lines += ["calls of a run:", *(f"  {call}" for call in self.calls)]
        return "\n".join(lines)


def explain_backbone(model: ContinualModel, dataset: ContinualDataset) -> BackboneExplanation:
    """Traces the backbone for each return type, and for the calls that a run makes.

    Args:
        model: The model, as `load_runner` returns it. It stays unchanged.
        dataset: Its dataset. Data is loaded only if the class declares no SIZE.

    Raises:
        ContractError: If the backbone violates the ReturnTypes contract.
    """
    if dataset.input_shape() is None:
        dataset.meta_get_data_loaders()
    shape = dataset.info().input_shape
    net = copy.deepcopy(model.net).to(model.device)
    with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
        images = torch.rand(dataset.config.experiment.batch_size, *shape, device=model.device)
        entries = {
            str(returnt): explain(forward_function(net, returnt), images)
            for returnt in probe(net, shape, dataset.N_CLASSES).supports
        }
        calls = trace_calls(net, shape, sorted(model.net_batch_sizes()), model.device)
    title = f"{type(net).__name__} on {model.device}, images {tuple(images.shape)}"
    return BackboneExplanation(title, entries, calls)


def trace_calls(
    net: MammothBackbone,
    shape: tuple[int, int, int],
    batch_sizes: Iterable[int],
    device: torch.device,
) -> list[CallGraphs]:
    """Makes the calls of a run with `returnt="out"`, traced but not compiled.

    Args:
        net: The backbone; its buffers may change.
        shape: (C, H, W) of an image.
        batch_sizes: Batch sizes of training.
        device: Where the backbone is.

    Returns:
        The graphs of training with each batch size, and of evaluation.
    """
    num_graphs = 0

    def count(graph: torch.fx.GraphModule, _: Any) -> Any:
        nonlocal num_graphs
        num_graphs += 1
        return graph.forward

    function = compile_function(
        forward_function(net, ReturnTypes.OUT), backend=count, dynamic=False
    )
    found = []
    kinds = [("training", size, True) for size in batch_sizes]
    for mode, size, trains in [*kinds, ("evaluation", EVAL_BATCH_SIZE, False)]:
        net.train(trains)
        images = torch.rand(size, *shape, device=device)
        made = []
        for _ in range(2):
            before = num_graphs
            with torch.set_grad_enabled(trains):
                function(images)
            new = num_graphs - before
            made.append((new, counters.failed_guard(new) if new else ""))
        (first, guard), (repeated, repeated_guard) = made
        call = f"{mode}, {size} images"
        found.append(CallGraphs(call, first, guard, repeated, repeated_guard))
    return found
