"""Pattern: three linear layers of the same tokens, such as queries, keys and values."""

import operator
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch.fx import Graph, Node

from mammoth_compiled.compiler.autotune import select
from mammoth_compiled.compiler.layouts import autocast_dtype
from mammoth_compiled.compiler.matmuls import is_linear, is_matmul
from mammoth_compiled.compiler.nodes import argument, example, has_dynamic_sizes, is_call, source
from mammoth_compiled.compiler.pattern import DYNAMIC_SIZE, Match, register_pattern
from mammoth_compiled.kernels.attention import joint_linear
from mammoth_compiled.kernels.attention.cases import ProjectionCase
from mammoth_compiled.kernels.attention.projections import IMPLEMENTATIONS
from mammoth_compiled.kernels.runtime.device import TRITON_DTYPES
from mammoth_compiled.kernels.runtime.implementations import usable
from mammoth_compiled.kernels.runtime.tiles import representative_size

# Operations that read any strides, besides matrix multiplications: attributes such as mT, copies
# and views.
_ANY_STRIDES = (
    getattr,
    torch.transpose,
    torch.permute,
    torch.unsqueeze,
    torch.reshape,
    torch.unflatten,
)
_ANY_STRIDES_NAMES = ("mT", *(function.__name__ for function in _ANY_STRIDES[1:]))


@dataclass(frozen=True)
class _Layer:
    """A linear layer: its node, and its parameters, inputs of the graph."""

    node: Node
    weight: Node
    bias: Node | None


@register_pattern(
    priority=20, functions=[joint_linear], effect="one kernel launch instead of three"
)
def projections(graph: Graph) -> Iterable[Match]:
    """Replaces three linear layers of the same tokens by one multiplication, where that is faster.

    It is for GPUs, where launches bound the time of few tokens.
    """
    for tokens, layers in _layers_by_input(graph):
        value = example(tokens)
        if value is None or not value.is_cuda or value.dim() != 3 or len(layers) != 3:
            continue
        reason = _why_not(value, layers)
        yield Match("projections", layers[0].node.name, reason, "" if reason else "one product")
        if not reason:
            _replace(graph, tokens, layers)


def _layers_by_input(graph: Graph) -> list[tuple[Node, list[_Layer]]]:
    """Returns the linear layers of a graph, in order, grouped by their input."""
    groups: dict[Node, list[_Layer]] = {}
    for node in graph.nodes:
        if is_linear(node) and isinstance(source(node), Node):
            layer = _Layer(node, argument(node, 1, "weight"), argument(node, 2, "bias"))
            groups.setdefault(source(node), []).append(layer)
    return list(groups.items())


def _why_not(value: torch.Tensor, layers: list[_Layer]) -> str:
    if has_dynamic_sizes(value):
        return DYNAMIC_SIZE
    parameters = [n for layer in layers for n in (layer.weight, layer.bias) if n is not None]
    if any(node.op not in ("placeholder", "get_attr") for node in parameters):
        return "its weights are computed in the graph"
    if not all(_reads_any_strides(user) for layer in layers for user in layer.node.users):
        return "a view of its results needs them contiguous"
    weights = [example(layer.weight) for layer in layers]
    dtype = autocast_dtype(value)
    if dtype not in TRITON_DTYPES or any(weight is None for weight in weights):
        return "its dtype is not bfloat16, float16 or float32"
    biases = [None if layer.bias is None else example(layer.bias) for layer in layers]
    candidates, reasons = usable(IMPLEMENTATIONS, value.device, value, weights, biases)

    def make_case() -> ProjectionCase:
        batch, tokens, channels = value.shape
        return ProjectionCase(
            dtype,
            representative_size(batch),
            tokens,
            channels,
            out_channels=tuple(weight.shape[0] for weight in weights if weight is not None),
            bias=any(layer.bias is not None for layer in layers),
            train=torch.is_grad_enabled(),
        )

    if select(candidates, value.device, make_case).name != "torch":
        return ""
    return "three products were measured to be faster" if len(candidates) > 1 else reasons[-1]


def _reads_any_strides(user: Node) -> bool:
    """Returns whether a node reads rows with gaps; a view may only split the last dimension."""
    if is_matmul(user) or is_call(user, _ANY_STRIDES, _ANY_STRIDES_NAMES):
        return True
    if is_call(user, (), ("view",)):
        value, result = example(source(user)), example(user)
        sizes = user.args[1] if isinstance(user.args[1], (tuple, list)) else user.args[1:]
        shape = result.shape if result is not None else sizes
        return value is not None and len(shape) == 4 and tuple(shape[:2]) == tuple(value.shape[:2])
    return False


def _replace(graph: Graph, tokens: Node, layers: list[_Layer]) -> None:
    with graph.inserting_before(layers[0].node):
        joint = graph.call_function(
            joint_linear, (tokens, [la.weight for la in layers], [la.bias for la in layers])
        )
        parts = [graph.call_function(operator.getitem, (joint, k)) for k in range(len(layers))]
    for layer, part in zip(layers, parts, strict=True):
        part.meta = dict(layer.node.meta)
        layer.node.replace_all_uses_with(part)
        graph.erase_node(layer.node)
