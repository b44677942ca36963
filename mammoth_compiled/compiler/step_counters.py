"""Advances all counters of a graph in one kernel on a GPU.

Every batch norm counts its batches in a tensor of one element. Inductor advances each of them in a
kernel of its own, which takes longer to start than to run: 20 kernels in a step of ResNet-18, 24 us
on an H100 (benchmarks/results/gpu_h100_profile.json).
"""

import operator
from typing import Any

import torch
from torch.fx import Graph, Node


def merge_step_counters(graph: Graph) -> None:
    """Rewrites a graph of ATen operators in place.

    Where inputs of one integer each become themselves plus the same number, and nothing else reads
    the sums, one `_foreach_add` computes all of them.

    Args:
        graph: A functional graph that ends by copying new values into its inputs.
    """
    groups: dict[tuple[Any, ...], list[tuple[Node, Node]]] = {}
    for copy in graph.find_nodes(op="call_function", target=torch.ops.aten.copy_.default):
        counter = copy.args[0]
        increment = _increment(counter, copy.args[1])
        if increment:
            value = counter.meta["val"]
            groups.setdefault((value.device, value.dtype, increment), []).append((copy, counter))
    for (*_, increment), members in groups.items():
        if len(members) > 1:
            _merge(graph, members, increment)


def _merge(graph: Graph, members: list[tuple[Node, Node]], increment: int) -> None:
    """Replaces the values that are copied into counters by the results of one operator."""
    counters = [counter for _, counter in members]
    with graph.inserting_before(members[0][0]):
        sums = graph.call_function(torch.ops.aten._foreach_add.Scalar, (counters, increment))
        results = [graph.call_function(operator.getitem, (sums, k)) for k in range(len(members))]
    sums.meta["val"] = [counter.meta["val"] for counter in counters]
    for (copy, counter), result in zip(members, results, strict=True):
        update: Any = copy.args[1]
        result.meta = dict(update.meta)
        copy.replace_input_with(update, result)
        while update is not counter:
            before = update.args[0]
            graph.erase_node(update)
            update = before


def _increment(counter: Any, update: Any) -> int:
    """Returns the number that `update` adds to a counter in one or several steps, else 0."""
    if not (isinstance(counter, Node) and counter.op == "placeholder" and _is_counter(counter)):
        return 0
    total = 0
    while update is not counter:
        if not _is_private_addition(update):
            return 0
        total += update.args[1]
        update = update.args[0]
    return total


def _is_private_addition(node: Any) -> bool:
    """Returns whether a node adds a number, and only one other node reads its result."""
    return (
        isinstance(node, Node)
        and node.target is torch.ops.aten.add.Tensor
        and len(node.args) == 2
        and isinstance(node.args[1], int)
        and not node.kwargs
        and len(node.users) == 1
    )


def _is_counter(node: Node) -> bool:
    """Returns whether a node is one integer on a GPU."""
    value = node.meta.get("val")
    return (
        isinstance(value, torch.Tensor)
        and value.is_cuda
        and value.numel() == 1
        and not value.is_floating_point()
    )
