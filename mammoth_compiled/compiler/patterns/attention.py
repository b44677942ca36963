"""Pattern: softmax attention written out with products, replaced by a fused form."""

import operator
from collections.abc import Iterable

import torch
from torch.fx import Graph, Node
from torch.nn import functional as F

from mammoth_compiled.compiler import dispatch
from mammoth_compiled.compiler.nodes import argument, example, is_open, source
from mammoth_compiled.compiler.patterns.layout import cast, product_dtype
from mammoth_compiled.compiler.patterns.match import OPEN_SIZE, Match
from mammoth_compiled.compiler.products import Product, as_product, is_softmax, scaled
from mammoth_compiled.compiler.ways import FUSED, SDPA, UNFUSED, AttentionProblem
from mammoth_compiled.kernels import launch
from mammoth_compiled.kernels.attention import attention_op
from mammoth_compiled.kernels.configs import concrete

# From here on the fused form trains faster on a CPU: benchmarks/results/attention.json.
CPU_MIN_TOKENS = 512

_BY = {FUSED: "one Triton kernel", SDPA: "torch's scaled_dot_product_attention"}


def attention(graph: Graph) -> Iterable[Match]:
    """Replaces softmax(q k^T * scale) v, one head or many, by a form that keeps no scores.

    On a CPU that is torch's scaled_dot_product_attention, on a GPU this or the Triton kernel,
    whichever is faster there. Source of the form: Dao et al. 2022, "FlashAttention",
    arXiv 2205.14135.
    """
    for last in list(graph.nodes):
        outer = as_product(last)
        if outer is None or not is_softmax(outer.left):
            continue
        softmax = outer.left
        scaling, scores, scale = scaled(source(softmax))
        inner = as_product(scores)
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
    graph: Graph, last: Node, outer: Product, inner: Product, scale: float, way: str
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


def _fastest(outer: Product, inner: Product) -> str:
    query, key = example(inner.left), example(inner.right)
    assert query is not None
    assert key is not None
    if query.device.type == "cpu":
        return SDPA
    problem = AttentionProblem(
        product_dtype(query),
        batch=concrete(query.shape[0]),
        heads=query.shape[1] if query.dim() == 4 else 1,
        queries=query.shape[-2],
        keys=key.shape[-2] if inner.right_transposed else key.shape[-1],
        size=query.shape[-1],
        train=torch.is_grad_enabled(),
    )
    return dispatch.fastest("attention", str(problem), query.device, problem.ways)


def _why_not(outer: Product, inner: Product, between: list[Node]) -> str:
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
    if any(is_open(x) for x in (query, key, value)):
        return OPEN_SIZE
    if not launch.supports(query.device):
        return "Triton kernels want a CUDA GPU of compute capability 8.0 or newer, and Triton"
    return "" if query.dtype in launch.KERNEL_DTYPES else f"there is no kernel for {query.dtype}"
