"""Reads the nodes of a graph: one form for the many spellings of an operation.

Graphs come from Dynamo, with functions and methods as the user wrote them, or from torch.export,
with ATen operators. Before AOTAutograd neither is functional or normalized; only this module and
`matmuls` know the spellings.
"""

from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch._ops import OpOverload, OpOverloadPacket
from torch.fx import Graph, Node
from torch.nn import functional as F

_CONV = (torch.conv2d, F.conv2d)
_BATCH_NORM = (F.batch_norm, torch.batch_norm)
_RELU = (F.relu, F.relu_, torch.relu, torch.relu_)
_POOL = (F.max_pool2d, torch.max_pool2d, F.max_pool2d_with_indices)


def is_call(node: Any, functions: tuple[Any, ...], names: tuple[str, ...]) -> TypeGuard[Node]:
    """Returns whether a node calls one of the functions, or a method or ATen operator by name.

    Args:
        node: A node, or any other argument of one.
        functions: Python functions.
        names: Names of tensor methods and of ATen operators, of any overload.
    """
    if not isinstance(node, Node):
        return False
    if node.op == "call_method":
        return node.target in names
    if isinstance(node.target, (OpOverload, OpOverloadPacket)):
        namespace, name = str(node.target).split(".")[:2]
        return namespace == "aten" and name in names
    # Not `in`, since some torch functions override ==.
    return node.op == "call_function" and any(node.target is f for f in functions)


def argument(node: Node, position: int, name: str) -> Any:
    """Returns an argument passed by position or by name, None if it is not passed."""
    return node.args[position] if position < len(node.args) else node.kwargs.get(name)


def is_conv(node: Any) -> bool:
    """Returns whether a node is a 2-D convolution."""
    return is_call(node, _CONV, ("conv2d",))


def is_batch_norm(node: Any) -> bool:
    """Returns whether a node is a batch norm."""
    return is_call(node, _BATCH_NORM, ("batch_norm",))


@dataclass(frozen=True)
class Conv:
    """The inputs of a 2-D convolution, and whether it is 3x3 with stride and padding 1."""

    images: Node
    weight: Node
    bias: Node | None
    is_3x3: bool


def as_conv(node: Any) -> Conv | None:
    """Returns the inputs of a 2-D convolution whose weight is known, None for other nodes."""
    if not is_conv(node):
        return None
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    weight = example(given["weight"])
    if weight is None:
        return None
    padding = given.get("padding", 0)
    sizes = [_pair(given.get(name, 1)) for name in ("stride", "dilation")]
    plain = sizes == [(1, 1), (1, 1)] and (padding == "same" or _pair(padding) == (1, 1))
    is_3x3 = tuple(weight.shape[2:]) == (3, 3) and plain and given.get("groups", 1) == 1
    return Conv(given["input"], given["weight"], given.get("bias"), is_3x3)


def is_relu(node: Any) -> bool:
    """Returns whether a node is a ReLU: function, method or operator, in place or not."""
    return is_call(node, _RELU, ("relu", "relu_"))


@dataclass(frozen=True)
class Pool:
    """The arguments of a max pooling, as pairs."""

    window: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    ceil_mode: bool

    @property
    def is_disjoint(self) -> bool:
        """Whether the windows tile the images, without overlap, gap or padding."""
        plain = self.padding == (0, 0) and self.dilation == (1, 1) and not self.ceil_mode
        return plain and self.stride == self.window


def as_pool(node: Any) -> Pool | None:
    """Returns the arguments of a max pooling that returns no indices, None for other nodes."""
    if not is_call(node, _POOL, ("max_pool2d",)):
        return None
    names = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    if given.get("return_indices"):
        return None
    window = _pair(given.get("kernel_size"))
    stride = given.get("stride")
    # An empty stride means the window, too.
    stride = _pair(stride) if stride else window
    padding, dilation = _pair(given.get("padding", 0)), _pair(given.get("dilation", 1))
    if window is None or stride is None or padding is None or dilation is None:
        return None
    return Pool(window, stride, padding, dilation, bool(given.get("ceil_mode", False)))


def _pair(value: Any) -> tuple[int, int] | None:
    values = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    values = values * 2 if len(values) == 1 else values
    if len(values) == 2 and all(isinstance(v, int) for v in values):
        return values
    return None


def source(node: Any) -> Any:
    """Returns the input of an operation, None for what is not a node."""
    return argument(node, 0, "input") if isinstance(node, Node) else None


def example(node: Any) -> torch.Tensor | None:
    """Returns the fake tensor of a node's value, if there is one."""
    if not isinstance(node, Node):
        return None
    # The key of Dynamo, and that of torch.export.
    value = node.meta.get("example_value", node.meta.get("val"))
    return value if isinstance(value, torch.Tensor) else None


def insert_call(graph: Graph, target: Any, *args: Any) -> Node:
    """Returns a new node of an ATen graph with its fake value, which Inductor needs.

    Args:
        graph: The graph, in which the place is set.
        target: An operator, ATen's or one of this package.
        args: Its arguments, the first of them a node.
    """
    target = getattr(target, "_opoverload", target)
    node = graph.call_function(target, args)
    values = [arg.meta["val"] if isinstance(arg, Node) else arg for arg in args]
    with values[0].fake_mode:
        node.meta["val"] = target(*values)
    return node


def has_dynamic_sizes(value: torch.Tensor) -> bool:
    """Returns whether any size but the first, the batch's, is dynamic."""
    return not all(isinstance(size, int) for size in value.shape[1:])
