"""Pattern: 3x3 convolutions on a CPU, and their gradients.

They are replaced in the graphs that AOTAutograd makes of forward and backward. There a convolution
has one spelling, and its result may be channels-last, of which eager mode could not make a `view`.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch.fx import Graph, Node

from mammoth_compiled.compiler.nodes import as_conv, example, has_dynamic_sizes, insert_call
from mammoth_compiled.compiler.pattern import (
    DYNAMIC_SIZE,
    Match,
    register_lowering,
    register_pattern,
)
from mammoth_compiled.kernels import conv3x3 as ops
from mammoth_compiled.kernels.runtime.implementations import Implementation, usable

_FORWARD = torch.ops.aten.convolution.default
_BACKWARD = torch.ops.aten.convolution_backward.default
# Stride, padding, dilation, transposed, output_padding, groups.
_SETTINGS = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)


@register_pattern(
    priority=10, effect="2.25 times fewer multiplications, forward and backward (Winograd)"
)
def conv3x3(graph: Graph) -> Iterable[Match]:
    """Reports which 3x3 convolutions of a Dynamo graph `lower_conv3x3` will replace."""
    for node in graph.nodes:
        conv, value = as_conv(node), example(node)
        if conv is None or value is None or not conv.is_3x3 or value.device.type != "cpu":
            continue
        weight = example(conv.weight)
        assert weight is not None
        best, reason = _select(value, weight)
        yield Match("conv3x3", node.name, reason, "" if reason else best.description)


@register_lowering
def lower_conv3x3(graph: Graph) -> None:
    """Replaces the 3x3 convolutions of a graph of ATen operators, and their backwards, in place."""
    for node in list(graph.nodes):
        args = node.args
        if node.target is _FORWARD and _is_replaceable(node, args[0], args[1], args[3:9]):
            _replace_forward(graph, node)
        elif node.target is _BACKWARD and _is_replaceable(args[0], args[1], args[2], args[4:10]):
            _replace_backward(graph, node)


def _is_replaceable(result: Any, images: Any, weight: Any, settings: Iterable[Any]) -> bool:
    value, kernel = _value(result), _value(weight)
    has_settings = all(
        list(a) == b if isinstance(b, list) else a == b
        for a, b in zip(settings, _SETTINGS, strict=True)
    )
    is_3x3 = has_settings and tuple(kernel.shape[2:]) == (3, 3) and value.device.type == "cpu"
    return is_3x3 and not has_dynamic_sizes(_value(images)) and not _select(value, kernel)[1]


def _select(value: torch.Tensor, weight: torch.Tensor) -> tuple[Implementation, str]:
    """Returns the implementation of a convolution with result `value`, and why it is torch's."""
    if has_dynamic_sizes(value):
        return ops.IMPLEMENTATIONS[-1], DYNAMIC_SIZE
    # The result stands for the images: dtype and device are the same.
    (best, *_), reasons = usable(ops.IMPLEMENTATIONS, value.device, value, weight, None)
    return best, reasons[0] if best.name == "torch" else ""


def _replace_forward(graph: Graph, node: Node) -> None:
    images, weight, bias = node.args[:3]
    with graph.inserting_before(node):
        result = insert_call(graph, ops.conv3x3_op, _channels_last(graph, images), weight, bias)
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def _replace_backward(graph: Graph, node: Node) -> None:
    grad, images, weight = node.args[:3]
    output_mask: Any = node.args[10]
    results: dict[int, Node] = {}
    with graph.inserting_before(node):
        grad = _channels_last(graph, grad)
        if output_mask[0]:
            results[0] = insert_call(graph, ops.input_grad_op, grad, weight)
        if output_mask[1]:
            images = _channels_last(graph, images)
            results[1] = insert_call(graph, ops.weight_grad_op, grad, images, weight)
        if output_mask[2]:
            results[2] = insert_call(graph, torch.ops.aten.sum.dim_IntList, grad, [0, 2, 3])
    for part in list(node.users):
        number: Any = part.args[1]
        part.replace_all_uses_with(results[number])
        graph.erase_node(part)
    graph.erase_node(node)


def _channels_last(graph: Graph, images: Any) -> Node:
    """Returns a node with the same images, which Inductor lays out in channels-last."""
    import torch._inductor.inductor_prims

    _, channels, height, width = _value(images).shape
    strides = [height * width * channels, 1, width * channels, channels]
    return insert_call(graph, torch.ops.prims.inductor_force_stride_order.default, images, strides)


def _value(node: Any) -> Any:
    """Returns the fake tensor of a node's value."""
    return node.meta["val"]
