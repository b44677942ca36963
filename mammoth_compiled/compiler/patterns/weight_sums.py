"""Lowering: the partial sums of two weight gradients of conv-relu-pool are added up in one launch.

The weight gradient of a layer is computed by many programs, whose sums a second launch adds up.
Nothing but the optimizer reads the results, so that the sums of a layer can wait for the next one.
"""

import operator
from collections.abc import Mapping, Sequence
from typing import Any

from torch.fx import Graph, Node
from torch.fx.node import map_aggregate

from mammoth_compiled.compiler.pattern import register_lowering

_RESULTS = ("grad_weight", "grad_bias")
_EAGER = "eager_input_vals"


@register_lowering
def pair_weight_sums(graph: Graph) -> None:
    """Rewrites a graph of ATen operators and Triton kernels in place."""
    position = {node: k for k, node in enumerate(graph.nodes)}
    waiting: Node | None = None
    for node in list(graph.nodes):
        if not _is_weight_sum(node):
            continue
        if waiting is not None and all(position[u] > position[node] for u in _readers(waiting)):
            _pair(graph, waiting, node)
            waiting = None
        else:
            waiting = node


def _is_weight_sum(node: Node) -> bool:
    if getattr(node.target, "__name__", "") != "triton_kernel_wrapper_functional":
        return False
    from mammoth_compiled.kernels.conv_relu_pool.triton_sums import sum_partial_kernel

    tuner = _tuner(node)
    return getattr(tuner, "fn", None) is sum_partial_kernel and len(tuner.configs) == 1


def _readers(node: Node) -> list[Node]:
    """Returns the nodes that read results of a kernel."""
    return [reader for result in node.users for reader in result.users]


def _tuner(node: Node) -> Any:
    """Returns the kernel of a node with its configurations, if `launch` launched it."""
    from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table

    index: Any = node.kwargs["kernel_idx"]
    return kernel_side_table.get_kernel(index)


def _pair(graph: Graph, first: Node, second: Node) -> None:
    """Replaces two kernels by one at the place of the second."""
    pair = (first, second)
    kernel = _paired_kernel(pair)
    programs = [_programs(node) for node in pair]
    names = [f"{name}{k}" for k in range(2) for name in _RESULTS]
    with graph.inserting_before(second):
        given = _paired_arguments(kernel, programs, [node.kwargs for node in pair])
        target: Any = second.target
        both = graph.call_function(target, kwargs=given)
        results = {name: graph.call_function(operator.getitem, (both, name)) for name in names}
    both.meta = dict(second.meta)
    values = [(f"{name}{k}", v) for k, n in enumerate(pair) for name, v in n.meta["val"].items()]
    both.meta["val"] = dict(values)
    # What the arguments were before the compiler chose layouts; Inductor restores these.
    if eager := [node.meta[_EAGER][1] for node in pair if _EAGER in node.meta]:
        # PyTorch 2.11 compares containers by type: a graph keeps its arguments in immutable ones.
        both.meta[_EAGER] = (
            (),
            map_aggregate(_paired_arguments(kernel, programs, eager), lambda v: v),
        )
    for k, node in enumerate(pair):
        for old in list(node.users):
            result = results[f"{old.args[1]}{k}"]
            result.meta = dict(old.meta)
            old.replace_all_uses_with(result)
            graph.erase_node(old)
        graph.erase_node(node)
    for result in results.values():
        if not result.users:
            graph.erase_node(result)


def _paired_kernel(pair: tuple[Node, Node]) -> int:
    """Returns the number under which the compiler knows the kernel of two layers."""
    import triton
    from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table

    from mammoth_compiled.kernels.conv_relu_pool.triton_sums import sum_two_partials_kernel

    num_warps = max(config.num_warps for node in pair for config in _tuner(node).configs)
    config = triton.Config({}, num_warps, num_stages=1)
    return kernel_side_table.add_kernel(triton.autotune([config], key=[])(sum_two_partials_kernel))


def _programs(node: Node) -> int:
    grid: Any = node.kwargs["grid"]
    return int(grid[0][0])


def _paired_arguments(
    kernel: int, programs: Sequence[int], pair: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    from mammoth_compiled.kernels.conv_relu_pool.triton_sums import two_partials

    first, second = (given["kwargs"] for given in pair)
    return {
        **pair[1],
        "kernel_idx": kernel,
        "grid": [(sum(programs), 1, 1)],
        "kwargs": two_partials(first, second, programs[0]),
        "tensors_to_clone": [f"{name}{k}" for k in range(2) for name in _RESULTS],
    }
