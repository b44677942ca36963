"""Pattern: 3x3 convolutions on a CPU and their gradients, to be computed with fewer products.

They are replaced in the graphs that AOTAutograd makes of forward and backward: there a convolution
has one spelling, and its result may lie in channels-last, which eager's `view` of it would refuse.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch.fx import Graph, Node

from mammoth_compiled.compiler.nodes import as_conv, example, is_open
from mammoth_compiled.compiler.patterns.match import OPEN_SIZE, Match
from mammoth_compiled.kernels import conv3x3 as op
from mammoth_compiled.kernels.cpu import library

# With fewer the transforms take what the products save: benchmarks/results/cpu_convolutions.json.
FEWEST_CHANNELS = 32

_FORWARD = torch.ops.aten.convolution.default
_BACKWARD = torch.ops.aten.convolution_backward.default
# Stride, padding, dilation, transposed, output_padding, groups.
_SETTINGS = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)


def conv3x3(graph: Graph) -> Iterable[Match]:
    """Says which 3x3 convolutions of a graph of Dynamo `lower_conv3x3` is going to replace."""
    for node in graph.nodes:
        conv, value = as_conv(node), example(node)
        if conv is None or value is None or not conv.is_3x3 or value.device.type != "cpu":
            continue
        weight = example(conv.weight)
        assert weight is not None
        reason = _why_not(value, weight)
        yield Match("conv3x3", node.name, reason, "" if reason else "C++ kernels by Winograd")


def lower_conv3x3(graph: Graph) -> None:
    """Replaces the convolutions of a graph of ATen's operators, and their backwards, in place."""
    for node in list(graph.nodes):
        args = node.args
        if node.target is _FORWARD and _fits(node, args[0], args[1], args[3:9]):
            _replace_forward(graph, node)
        elif node.target is _BACKWARD and _fits(args[0], args[1], args[2], args[4:10]):
            _replace_backward(graph, node)


def _fits(result: Any, images: Any, weight: Any, settings: Iterable[Any]) -> bool:
    value, kernel = _value(result), _value(weight)
    plain = all(
        list(a) == b if isinstance(b, list) else a == b
        for a, b in zip(settings, _SETTINGS, strict=True)
    )
    is_3x3 = plain and tuple(kernel.shape[2:]) == (3, 3) and value.device.type == "cpu"
    return is_3x3 and not is_open(_value(images)) and not _why_not(value, kernel)


def _why_not(value: torch.Tensor, weight: torch.Tensor) -> str:
    """Returns why a 3x3 convolution with result `value` stays with torch, "" if it does not."""
    if value.dtype != torch.float32 or value.dim() != 4:
        return "its input is not a float32 batch of images"
    if is_open(value):
        return OPEN_SIZE
    if min(weight.shape[:2]) < FEWEST_CHANNELS:
        return f"it has fewer than {FEWEST_CHANNELS} channels"
    return library.why_not()


def _replace_forward(graph: Graph, node: Node) -> None:
    images, weight, bias = node.args[:3]
    with graph.inserting_before(node):
        result = _call(graph, op.conv3x3_op, _channels_last(graph, images), weight, bias)
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def _replace_backward(graph: Graph, node: Node) -> None:
    grad, images, weight = node.args[:3]
    wanted: Any = node.args[10]
    results: dict[int, Node] = {}
    with graph.inserting_before(node):
        grad = _channels_last(graph, grad)
        if wanted[0]:
            results[0] = _call(graph, op.input_grad_op, grad, weight)
        if wanted[1]:
            images = _channels_last(graph, images)
            results[1] = _call(graph, op.weight_grad_op, grad, images, weight)
        if wanted[2]:
            results[2] = _call(graph, torch.ops.aten.sum.dim_IntList, grad, [0, 2, 3])
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
    return _call(graph, torch.ops.prims.inductor_force_stride_order.default, images, strides)


def _call(graph: Graph, target: Any, *args: Any) -> Node:
    """Returns a new node whose value is known, as Inductor wants it."""
    target = getattr(target, "_opoverload", target)
    node = graph.call_function(target, args)
    values = [_value(arg) if isinstance(arg, Node) else arg for arg in args]
    with values[0].fake_mode:
        node.meta["val"] = target(*values)
    return node


def _value(node: Any) -> Any:
    """Returns the fake tensor that stands for a node's value."""
    return node.meta["val"]
