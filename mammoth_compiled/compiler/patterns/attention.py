"""Pattern: softmax attention written out with products, replaced by a fused form."""

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.nn import functional as F

from mammoth_compiled.compiler import dispatch
from mammoth_compiled.compiler.nodes import argument, example, is_call, source
from mammoth_compiled.compiler.patterns.layout import cast, product_dtype
from mammoth_compiled.compiler.patterns.match import Match
from mammoth_compiled.compiler.ways import FUSED, SDPA, UNFUSED, AttentionProblem
from mammoth_compiled.kernels import launch
from mammoth_compiled.kernels.attention import attention_op

# From here on the fused form trains faster on a CPU: benchmarks/results/attention.json.
CPU_MIN_TOKENS = 512

_BY = {FUSED: "one Triton kernel", SDPA: "torch's scaled_dot_product_attention"}

_PRODUCTS = (torch.bmm, torch.matmul, operator.matmul)
_PRODUCT_METHODS = ("bmm", "matmul", "__matmul__")
_SOFTMAX = (F.softmax, torch.softmax)
_TIMES = (operator.mul, operator.imul, torch.mul)
_OVER = (operator.truediv, operator.itruediv, torch.div)


@dataclass(frozen=True)
class _Product:
    """A batched matrix product; `right` is [..., N, K] instead of [..., K, N] if transposed."""

    left: Node
    right: Node
    right_transposed: bool


def attention(graph: Graph) -> Iterable[Match]:
    """Replaces softmax(q k^T * scale) v, one head or many, by a form that keeps no scores.

    On a CPU that is torch's scaled_dot_product_attention, on a GPU this or the Triton kernel,
    whichever is faster there. Source of the form: Dao et al. 2022, "FlashAttention",
    arXiv 2205.14135.
    """
    for last in list(graph.nodes):
        outer = _product(last)
        if outer is None or not is_call(outer.left, _SOFTMAX, ("softmax",)):
            continue
        softmax = outer.left
        scaling, scores, scale = _scaled(source(softmax))
        inner = _product(scores)
        if inner is None:
            continue
        # From the last to the first: each is used by the one before it only.
        between = [softmax, *scaling, scores]
        reason = _why_not(outer, inner, between)
        way = UNFUSED if reason else _fastest(outer, inner)
        if not reason and way == UNFUSED:
            reason = "torch's own kernels were measured to be faster"
        yield Match("attention", last.name, reason, _BY.get(way, ""))
        if not reason:
            _replace(graph, last, outer, inner, scale, way)
            for node in (last, *between):
                graph.erase_node(node)


def _replace(
    graph: Graph, last: Node, outer: _Product, inner: _Product, scale: float, way: str
) -> None:
    value = example(outer.right)
    assert value is not None
    single_head = value.dim() == 3
    inputs = [inner.left, inner.right, outer.right]
    if value.is_cuda:
        inputs = [cast(graph, last, node, product_dtype(value)) for node in inputs]
    with graph.inserting_before(last):
        if not inner.right_transposed:
            inputs[1] = graph.call_method("transpose", (inputs[1], -2, -1))
        if single_head:
            inputs = [graph.call_method("unsqueeze", (node, 1)) for node in inputs]
        if way == FUSED:
            both = graph.call_function(attention_op._opoverload, (*inputs, scale))
            result = graph.call_function(operator.getitem, (both, 0))
        else:
            result = graph.call_function(
                F.scaled_dot_product_attention, tuple(inputs), {"scale": scale}
            )
        if single_head:
            result = graph.call_method("squeeze", (result, 1))
        result.meta = dict(last.meta)
    last.replace_all_uses_with(result)


def _fastest(outer: _Product, inner: _Product) -> str:
    query, key = example(inner.left), example(inner.right)
    assert query is not None
    assert key is not None
    if query.device.type == "cpu":
        return SDPA
    problem = AttentionProblem(
        product_dtype(query),
        batch=query.shape[0],
        heads=query.shape[1] if query.dim() == 4 else 1,
        queries=query.shape[-2],
        keys=key.shape[-2] if inner.right_transposed else key.shape[-1],
        size=query.shape[-1],
        train=torch.is_grad_enabled(),
    )
    return dispatch.fastest("attention", str(problem), query.device, problem.ways)


def _why_not(outer: _Product, inner: _Product, between: list[Node]) -> str:
    softmax = between[0]
    query, key, value = example(inner.left), example(inner.right), example(outer.right)
    if query is None or key is None or value is None or outer.right_transposed:
        return "its shapes are not known or its values are transposed"
    dim = argument(softmax, 1, "dim")
    if dim not in (-1, query.dim() - 1):
        return f"its softmax is over dimension {dim}, not the last"
    if argument(softmax, 2, "dtype") is not None:
        return "its softmax changes the type"
    if any(len(node.users) != 1 for node in between):
        return "its weights or scores are used elsewhere too"
    if not query.is_floating_point() or query.dim() not in (3, 4):
        return "it is not a float product of 3 or 4 dimensions"
    if query.shape[-1] != value.shape[-1] or not (
        query.shape[:-2] == key.shape[:-2] == value.shape[:-2]
    ):
        return "queries, keys and values differ in size"
    if query.device.type == "cpu":
        few = query.shape[-2] < CPU_MIN_TOKENS
        return f"under {CPU_MIN_TOKENS} tokens the fused form is not faster on a CPU" if few else ""
    if not launch.supports(query.device):
        return "Triton kernels want a CUDA GPU of compute capability 8.0 or newer, and Triton"
    return "" if query.dtype in launch.KERNEL_DTYPES else f"there is no kernel for {query.dtype}"


def _scaled(node: Any) -> tuple[list[Node], Any, float]:
    """Takes multiplications and divisions by a number off.

    Returns:
        The nodes taken off, what is below them, and the factor they make together.
    """
    taken: list[Node] = []
    scale = 1.0
    while is_call(node, (*_TIMES, *_OVER), ("mul", "mul_", "div", "div_")) and not node.kwargs:
        below, factor = node.args[:2]
        if is_call(node, _OVER, ("div", "div_")):
            factor = 1 / factor if isinstance(factor, (int, float)) and factor else None
        elif isinstance(below, (int, float)):
            below, factor = factor, below
        if not isinstance(factor, (int, float)):
            break
        taken.append(node)
        node, scale = below, scale * factor
    return taken, node, scale


def _product(node: Any) -> _Product | None:
    """Returns the operands of a batched matrix product in any spelling, None for other nodes."""
    if is_call(node, _PRODUCTS, _PRODUCT_METHODS) and len(node.args) == 2 and not node.kwargs:
        left, right = node.args
        if isinstance(left, Node) and isinstance(right, Node):
            below = _untransposed(right)
            return _Product(left, below or right, below is not None)
    if is_call(node, (torch.einsum,), ()) and len(node.args) == 3:
        return _einsum(*node.args)
    return None


def _einsum(equation: Any, left: Any, right: Any) -> _Product | None:
    """Reads `bqd,bkd->bqk` and `bqk,bkd->bqd`, with any letters and any number of batch letters."""
    if not (isinstance(equation, str) and isinstance(left, Node) and isinstance(right, Node)):
        return None
    operands, _, result = equation.replace(" ", "").partition("->")
    first, _, second = operands.partition(",")
    if not (len(first) == len(second) == len(result) > 2 and len(set(first)) == len(first)):
        return None
    batch, rows, inner = first[:-2], first[-2], first[-1]
    if not second.startswith(batch) or not result.startswith(batch + rows):
        return None
    columns = result[-1]
    if columns in first:
        return None
    if second[-2:] == columns + inner:
        return _Product(left, right, True)
    return _Product(left, right, False) if second[-2:] == inner + columns else None


def _untransposed(node: Node) -> Node | None:
    """Returns what a swap of the last two dimensions is made from, None for other nodes."""
    value = example(node)
    if value is None or not node.args or not isinstance(node.args[0], Node):
        return None
    below, dims = node.args[0], value.dim()
    if is_call(node, (torch.transpose, torch.swapaxes), ("transpose", "swapaxes", "swapdims")):
        axes = {a % dims for a in node.args[1:3] if isinstance(a, int)}
    elif is_call(node, (torch.permute,), ("permute",)):
        order: Any = node.args[1] if isinstance(node.args[1], (tuple, list)) else node.args[1:]
        swapped = [*range(dims - 2), dims - 1, dims - 2]
        axes = {dims - 2, dims - 1} if [a % dims for a in order] == swapped else set()
    elif is_call(node, (torch.ops.aten.mT,), ()) or (
        is_call(node, (getattr,), ()) and node.args[1] == "mT"
    ):
        axes = {dims - 2, dims - 1}
    else:
        return None
    return below if axes == {dims - 2, dims - 1} else None
