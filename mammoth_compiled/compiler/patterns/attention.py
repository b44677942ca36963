"""Pattern: softmax attention written out with matrix multiplications."""

import operator
from collections.abc import Iterable

import torch
from torch.fx import Graph, Node
from torch.nn import functional as F

from mammoth_compiled.compiler.autotune import select
from mammoth_compiled.compiler.layouts import autocast_dtype, cast
from mammoth_compiled.compiler.matmuls import (
    MatMul,
    as_matmul,
    is_softmax,
    is_sum_with_matmul,
    strip_dropout,
    strip_scale,
)
from mammoth_compiled.compiler.nodes import argument, example, has_dynamic_sizes, source
from mammoth_compiled.compiler.pattern import (
    DYNAMIC_SIZE,
    FASTER_IN_TORCH,
    Match,
    register_pattern,
)
from mammoth_compiled.kernels.attention import IMPLEMENTATIONS, attention_op
from mammoth_compiled.kernels.attention.cases import AttentionCase
from mammoth_compiled.kernels.runtime.implementations import Implementation, usable
from mammoth_compiled.kernels.runtime.tiles import representative_size


@register_pattern(priority=30, effect="the scores of all pairs are not written to memory")
def attention(graph: Graph) -> Iterable[Match]:
    """Replaces softmax(q k^T * scale) v, one head or many, by a form that keeps no scores.

    On a CPU that is torch's scaled_dot_product_attention, on a GPU this or the Triton kernel,
    whichever is faster.

    Source:
        Dao et al. 2022, "FlashAttention", arXiv 2205.14135.
    """
    for last in list(graph.nodes):
        outer = as_matmul(last)
        dropouts, softmax = strip_dropout(None if outer is None else outer.left)
        if outer is None or not is_softmax(softmax):
            continue
        scaling, scores, scale = strip_scale(source(softmax))
        inner = as_matmul(scores)
        if inner is None:
            if is_sum_with_matmul(scores):
                yield Match("attention", last.name, "a bias or mask is added to its scores")
            continue
        # From the last to the first; each is used by the one before it only.
        between = [*dropouts, softmax, *scaling, scores]
        reason = _why_not(outer, inner, softmax, between)
        best = None
        if not reason:
            best, reason = _select(outer, inner, scale)
        yield Match("attention", last.name, reason, "" if best is None else best.description)
        if best is not None:
            _replace(graph, last, outer, inner, scale, best)
            for node in (last, *between):
                graph.erase_node(node)


def _why_not(outer: MatMul, inner: MatMul, softmax: Node, between: list[Node]) -> str:
    """Returns why the graph does not allow a replacement, whatever the implementation."""
    query, key, value = example(inner.left), example(inner.right), example(outer.right)
    if query is None or key is None or value is None or outer.right_transposed:
        return "its shapes are unknown or its values are transposed"
    dim = argument(softmax, 1, "dim")
    if dim not in (-1, query.dim() - 1):
        return f"its softmax is over dimension {dim}, not the last"
    if argument(softmax, 2, "dtype") is not None:
        return "its softmax changes the dtype"
    if any(len(node.users) != 1 for node in between):
        return "its weights or scores are used elsewhere, too"
    if not query.is_floating_point() or query.dim() not in (3, 4):
        return "it is not a float multiplication of 3 or 4 dimensions"
    if query.shape[-1] != value.shape[-1] or not (
        query.shape[:-2] == key.shape[:-2] == value.shape[:-2]
    ):
        return "queries, keys and values differ in size"
    if query.is_cuda and any(has_dynamic_sizes(x) for x in (query, key, value)):
        return DYNAMIC_SIZE
    return ""


def _select(outer: MatMul, inner: MatMul, scale: float) -> tuple[Implementation | None, str]:
    """Returns the implementation to use, or None and why the graph stays as it is."""
    examples = [example(inner.left), example(inner.right), example(outer.right)]
    # [B, H, L, D], as the implementations take them.
    q, k, v = (
        x.to(autocast_dtype(x)) if x.dim() == 4 else x.to(autocast_dtype(x)).unsqueeze(1)
        for x in examples
        if x is not None
    )
    if not inner.right_transposed:
        k = k.transpose(-2, -1)
    candidates, reasons = usable(IMPLEMENTATIONS, q.device, q, k, v, scale)

    def make_case() -> AttentionCase:
        return AttentionCase(
            q.dtype,
            batch=representative_size(q.shape[0]),
            heads=q.shape[1],
            queries=q.shape[2],
            keys=k.shape[2],
            head_size=q.shape[3],
            train=torch.is_grad_enabled(),
        )

    best = select(candidates, q.device, make_case)
    if best.name != "torch":
        return best, ""
    return None, FASTER_IN_TORCH if len(candidates) > 1 else reasons[-1]


def _replace(
    graph: Graph, last: Node, outer: MatMul, inner: MatMul, scale: float, best: Implementation
) -> None:
    value = example(outer.right)
    assert value is not None
    is_single_head = value.dim() == 3
    inputs = [inner.left, inner.right, outer.right]
    if value.is_cuda:
        inputs = [cast(graph, last, node, autocast_dtype(value)) for node in inputs]
    with graph.inserting_before(last):
        if not inner.right_transposed:
            inputs[1] = graph.call_method("transpose", (inputs[1], -2, -1))
        if is_single_head:
            inputs = [graph.call_method("unsqueeze", (node, 1)) for node in inputs]
        if best.name == "triton":
            results = graph.call_function(attention_op._opoverload, (*inputs, scale))
            result = graph.call_function(operator.getitem, (results, 0))
        else:
            result = graph.call_function(
                F.scaled_dot_product_attention, tuple(inputs), {"scale": scale}
            )
        if is_single_head:
            result = graph.call_method("squeeze", (result, 1))
        result.meta = dict(last.meta)
    last.replace_all_uses_with(result)
