"""Pattern: three linear layers of the same tokens, such as queries, keys and values."""

import operator
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch.fx import Graph, Node

from mammoth_compiled.compiler import dispatch
from mammoth_compiled.compiler.nodes import argument, example, is_call, is_open, source
from mammoth_compiled.compiler.patterns.layout import product_dtype
from mammoth_compiled.compiler.patterns.match import OPEN_SIZE, Match
from mammoth_compiled.compiler.products import is_linear, is_product
from mammoth_compiled.compiler.ways import FUSED, ProjectionProblem
from mammoth_compiled.kernels.attention import projections as projections_of
from mammoth_compiled.kernels.configs import concrete
from mammoth_compiled.kernels.launch import KERNEL_DTYPES

# With fewer tokens nothing is gained, with more the products themselves take the time.
MIN_TOKENS, MAX_TOKENS = 64, 256

# What reads any strides, products aside: attributes such as mT, and copies and views.
_READERS = (
    getattr,
    torch.transpose,
    torch.permute,
    torch.unsqueeze,
    torch.reshape,
    torch.unflatten,
)
_READER_NAMES = ("mT", *(function.__name__ for function in _READERS[1:]))


@dataclass(frozen=True)
class _Layer:
    """A call of linear: `node` is it, `weight` and `bias` are inputs of the graph."""

    node: Node
    weight: Node
    bias: Node | None


def projections(graph: Graph) -> Iterable[Match]:
    """Replaces three linear layers of 64 to 256 tokens by one product, on a GPU where that pays."""
    for tokens, layers in _groups(graph):
        value = example(tokens)
        if value is None or not value.is_cuda or value.dim() != 3 or len(layers) != 3:
            continue
        reason = _why_not(value, layers)
        yield Match("projections", layers[0].node.name, reason, "" if reason else "one product")
        if not reason:
            _replace(graph, tokens, layers)


def _groups(graph: Graph) -> list[tuple[Node, list[_Layer]]]:
    """Returns the linear layers of a graph by what they read, in order."""
    groups: dict[Node, list[_Layer]] = {}
    for node in graph.nodes:
        if is_linear(node) and isinstance(source(node), Node):
            layer = _Layer(node, argument(node, 1, "weight"), argument(node, 2, "bias"))
            groups.setdefault(source(node), []).append(layer)
    return list(groups.items())


def _why_not(value: torch.Tensor, layers: list[_Layer]) -> str:
    if is_open(value):
        return OPEN_SIZE
    batch, tokens, channels = value.shape
    if not MIN_TOKENS <= tokens <= MAX_TOKENS:
        return f"it pays for {MIN_TOKENS} to {MAX_TOKENS} tokens"
    parameters = [n for layer in layers for n in (layer.weight, layer.bias) if n is not None]
    if any(node.op not in ("placeholder", "get_attr") for node in parameters):
        return "its weights are computed in the graph"
    if not all(_takes_strides(user) for layer in layers for user in layer.node.users):
        return "a view of its results wants them contiguous"
    weights = [example(layer.weight) for layer in layers]
    if product_dtype(value) not in KERNEL_DTYPES or any(weight is None for weight in weights):
        return "its numbers are not bfloat16, float16 or float32"
    problem = ProjectionProblem(
        product_dtype(value),
        concrete(batch),
        tokens,
        channels,
        sizes=tuple(weight.shape[0] for weight in weights if weight is not None),
        bias=any(layer.bias is not None for layer in layers),
        train=torch.is_grad_enabled(),
    )
    if dispatch.fastest("projections", str(problem), value.device, problem.ways) != FUSED:
        return "three products were measured to be faster"
    return ""


def _takes_strides(user: Node) -> bool:
    """Returns whether a node reads rows that lie apart; a view may but split the last dimension."""
    if is_product(user) or is_call(user, _READERS, _READER_NAMES):
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
            projections_of, (tokens, [la.weight for la in layers], [la.bias for la in layers])
        )
        parts = [graph.call_function(operator.getitem, (joint, k)) for k in range(len(layers))]
    for layer, part in zip(layers, parts, strict=True):
        part.meta = dict(layer.node.meta)
        layer.node.replace_all_uses_with(part)
        graph.erase_node(layer.node)
