"""Lowering: on a CPU, graphs of operators, copies and sums are compiled without a C++ compiler.

Inductor writes C++ for every loop, and compiling a file of it takes seconds, nearly all of them for
the headers. In the graphs of convolutions and a linear classifier the only loops copy images
between layouts and add up the rows of a gradient. The library of C++ kernels has both; if a graph
has no other loops, it calls those. In other graphs Inductor fuses them with its neighbors.
"""

import operator
from typing import Any

import torch
import torch._inductor.inductor_prims
from torch.fx import Graph, Node

from mammoth_compiled.compiler.nodes import insert_call, source
from mammoth_compiled.compiler.pattern import register_lowering
from mammoth_compiled.kernels import reorder, row_sum

_aten = torch.ops.aten
_SUM = _aten.sum.dim_IntList
_FORCE_STRIDES = torch.ops.prims.inductor_force_stride_order.default
# Calls of libraries, and nodes that share the memory of another one.
_WITHOUT_LOOP = {
    operator.getitem,
    _aten.mm.default,
    _aten.addmm.default,
    _aten.permute.default,
    _aten.squeeze.dim,
    _aten.t.default,
    _aten.unsqueeze.default,
    _aten.view.default,
}


@register_lowering
def call_ready_loops(graph: Graph) -> None:
    """Rewrites a graph of ATen operators in place if no loop is left then."""
    replacements: dict[Node, tuple[Any, ...]] = {}
    for node in graph.nodes:
        if node.op == "output":
            continue
        if not _has_static_sizes(node):
            return
        if node.op == "placeholder" or _has_no_loop(node):
            continue
        replacement = _replacement(node)
        if not replacement:
            return
        replacements[node] = replacement
    for node, (operation, *args) in replacements.items():
        with graph.inserting_before(node):
            result = insert_call(graph, operation, source(node), *args)
        node.replace_all_uses_with(result)
        graph.erase_node(node)


def _has_no_loop(node: Node) -> bool:
    if node.op != "call_function":
        return False
    if node.target is _aten.reshape.default:
        return bool(_value(source(node)).is_contiguous())
    if node.target is _FORCE_STRIDES and _value(node).stride() == _value(source(node)).stride():
        return True
    is_ours = getattr(node.target, "namespace", "") == "mammoth"
    return node.target in _WITHOUT_LOOP or (is_ours and _is_on_cpu(node))


def _replacement(node: Node) -> tuple[Any, ...]:
    """Returns the operator that replaces a node with a loop, and its arguments but the first."""
    if node.target not in (_SUM, _aten.clone.default, _FORCE_STRIDES):
        return ()
    value, before = _value(node), _value(source(node))
    if node.target is _SUM:
        is_over_rows = node.args[1:] == ([0], True) and not node.kwargs
        return (row_sum.sum_rows_op,) if is_over_rows and not row_sum.reason_not(before) else ()
    channels_last = _is_channels_last(value)
    has_layout = value.is_contiguous() or channels_last
    reason = reorder.reason_not(before, channels_last)
    return (reorder.reorder_images_op, channels_last) if has_layout and not reason else ()


def _is_channels_last(value: torch.Tensor) -> bool:
    return value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last)


def _is_on_cpu(node: Node) -> bool:
    return all(tensor.is_cpu for tensor in _tensors(node))


def _has_static_sizes(node: Node) -> bool:
    """Returns whether the value of a node consists of tensors of known sizes and strides."""
    return bool(_tensors(node)) and all(
        isinstance(number, int) for t in _tensors(node) for number in (*t.shape, *t.stride())
    )


def _tensors(node: Node) -> list[torch.Tensor]:
    value = _value(node)
    values = value if isinstance(value, (tuple, list)) else (value,)
    return [v for v in values if isinstance(v, torch.Tensor)]


def _value(node: Node) -> Any:
    """Returns the fake value of a node."""
    return node.meta.get("val")
