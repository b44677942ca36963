"""Keeps convolutions channels-last in a graph that contains forward and backward.

On a GPU Inductor runs convolutions in channels-last where it expects that to be faster. In a graph
of its own a backward finds the activations so. In one graph with the forward it does not: Inductor
hands gradients of convolutions their arguments in the layout that they had when the graph was
traced, and cuDNN then reorders all of them, twice: 0.56 ms of 3.4 in a step of ER on ResNet-18 with
64 images, on an H100 (benchmarks/results/gpu_h100_steps.json).
"""

from typing import Any

import torch
from torch._dynamo.utils import detect_fake_mode
from torch.fx import Graph, Node
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves

_CONV = torch.ops.aten.convolution.default
_BACKWARD = torch.ops.aten.convolution_backward.default
_VIEW, _RESHAPE = torch.ops.aten.view.default, torch.ops.aten.reshape.default
_ORDER = torch.ops.prims.inductor_force_stride_order.default
# The tensors among the arguments of each operator.
_IMAGES_AND_WEIGHTS = {_CONV: (0, 1), _BACKWARD: (0, 1, 2)}


def use_channels_last(graph: Graph) -> None:
    """Rewrites a graph of ATen operators in place, if Inductor prefers channels-last for it.

    Images, weights and gradients that reach a convolution contiguous are copied to channels-last.
    The strides of all nodes that depend on them are recomputed, so that later convolutions need no
    copy. Outputs of the graph keep their strides.

    Args:
        graph: A graph that is not divided into forward and backward.
    """
    if not _prefers_channels_last(graph):
        return
    copies: dict[Node, Node] = {}
    changed: set[Node] = set()
    (output,) = graph.find_nodes(op="output")
    before = {node: node.meta.get("val") for node in output.all_input_nodes}
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        for position in _IMAGES_AND_WEIGHTS.get(node.target, ()):
            _take_channels_last(graph, node, position, copies, changed)
        if changed.isdisjoint(node.all_input_nodes):
            continue
        if node.target is _VIEW:  # of channels-last images it may not exist
            node.target = _RESHAPE
        if _infer(node):
            changed.add(node)
    for node, value in before.items():
        if node in changed and isinstance(value, torch.Tensor):
            with graph.inserting_before(output):
                ordered = graph.call_function(_ORDER, (node, list(value.stride())))
            ordered.meta = {**node.meta, "val": value}
            output.replace_input_with(node, ordered)


def _prefers_channels_last(graph: Graph) -> bool:
    from torch._inductor.graph import GraphLowering

    convolutions = graph.find_nodes(op="call_function", target=_CONV)
    if not convolutions or not graph.find_nodes(op="call_function", target=_BACKWARD):
        return False
    if any(node.args[0].meta["val"].device.type != "cuda" for node in convolutions):
        return False
    if any(node.name.startswith("tangents") for node in graph.find_nodes(op="placeholder")):
        return False  # it is yet to be divided
    if any("as_strided" in str(node.target) for node in graph.nodes):
        return False  # what it returns depends on the strides of its input
    module = graph.owning_module
    return module is not None and GraphLowering.decide_layout_opt(module, is_inference=True)


def _take_channels_last(
    graph: Graph, node: Node, position: int, copies: dict[Node, Node], changed: set[Node]
) -> None:
    """Replaces an argument of a node by a channels-last copy, unless it is channels-last."""
    given: Any = node.args[position]
    value = given.meta["val"]
    if value.dim() != 4 or value.is_contiguous(memory_format=torch.channels_last):
        return
    if given not in copies:
        with graph.inserting_before(node):
            copies[given] = graph.call_function(
                torch.ops.aten.clone.default, (given,), {"memory_format": torch.channels_last}
            )
        copies[given].meta = dict(given.meta)
        _infer(copies[given])
    node.update_arg(position, copies[given])
    changed.add(copies[given])


def _infer(node: Node) -> bool:
    """Recomputes the fake value of a node from its inputs; returns whether strides changed."""
    before = node.meta.get("val")
    args, kwargs = map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
    target: Any = node.target
    mode = detect_fake_mode((args, kwargs))
    assert mode is not None
    with mode, torch.no_grad():
        node.meta["val"] = target(*args, **kwargs)
    return _strides(before) != _strides(node.meta["val"])


def _strides(value: Any) -> Any:
    leaves = tree_leaves(value)
    return [leaf.stride() if isinstance(leaf, torch.Tensor) else None for leaf in leaves]
