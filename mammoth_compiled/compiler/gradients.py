"""Gives gradients of convolution weights the strides of the weights.

Inside a graph convolutions run in channels-last, also where their weights are contiguous, and the
gradients come in channels-last, too. Autograd copies a gradient whose strides differ from those of
the parameter, one kernel per weight and step: 17 in a step of ResNet-18, 71 us on an H100
(benchmarks/results/gpu_h100_profile.json). Inside the graph, the kernel that casts the gradient to
float32 writes it in the right order.
"""

import operator
from typing import Any

import torch
import torch._inductor.inductor_prims
from torch.fx import Graph, Node

_CASTS = (torch.ops.aten._to_copy.default, torch.ops.prims.convert_element_type.default)


def keep_weight_strides(graph: Graph) -> None:
    """Rewrites a joint or inference graph of ATen operators in place.

    Args:
        graph: Its outputs that are gradients of a convolution weight get the strides of that
            weight, if it is an input of the graph.
    """
    (output,) = graph.find_nodes(op="output")
    for result in list(output.all_input_nodes):
        weight = _weight_of(result)
        if weight is None:
            continue
        shape, strides = weight.meta["val"].shape, weight.meta["val"].stride()
        with graph.inserting_after(result):
            ordered = graph.call_function(
                torch.ops.prims.inductor_force_stride_order.default, (result, list(strides))
            )
        value = result.meta["val"]
        with value.fake_mode:
            ordered.meta = {**result.meta, "val": value.new_empty_strided(shape, strides)}
        output.replace_input_with(result, ordered)


def _weight_of(result: Node) -> Node | None:
    """Returns the graph input of which a node is the gradient as a convolution weight, if any."""
    grad = _before_casts(result)
    if grad.target is not operator.getitem or grad.args[1] != 1:
        return None
    backward = grad.args[0]
    if backward.target is not torch.ops.aten.convolution_backward.default:
        return None
    weight = _before_casts(backward.args[2])
    if not isinstance(weight, Node) or weight.op != "placeholder":
        return None
    value = weight.meta["val"]
    is_static = all(isinstance(n, int) for n in (*value.shape, *value.stride()))
    # A 1x1 kernel has the same order of elements in either layout.
    return weight if is_static and value.shape[2:].numel() > 1 else None


def _before_casts(node: Any) -> Any:
    """Returns what a node converts to another dtype, in one step or several."""
    while isinstance(node, Node) and node.target in _CASTS:
        node = node.args[0]
    return node
