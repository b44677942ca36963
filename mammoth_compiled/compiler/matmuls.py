"""Reads matrix multiplications and the operations between those of attention; see `nodes`."""

import operator
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch.fx import Node
from torch.nn import functional as F

from mammoth_compiled.compiler.nodes import argument, example, is_call, source

_MATMUL = (torch.bmm, torch.matmul, operator.matmul)
_MATMUL_NAMES = ("bmm", "matmul", "__matmul__")
_MULTIPLY = (operator.mul, operator.imul, torch.mul)
_DIVIDE = (operator.truediv, operator.itruediv, torch.div)
_DIVIDE_NAMES = ("div", "div_")
_ADD = (operator.add, operator.iadd, torch.add)
_ADD_NAMES = ("add", "add_")
_SWAP = (torch.transpose, torch.swapaxes)


@dataclass(frozen=True)
class MatMul:
    """A batched matrix multiplication; `right` is [..., N, K], not [..., K, N], if transposed."""

    left: Node
    right: Node
    right_transposed: bool


def is_linear(node: Any) -> TypeGuard[Node]:
    """Returns whether a node is a linear layer."""
    return is_call(node, (F.linear,), ("linear",))


def is_softmax(node: Any) -> TypeGuard[Node]:
    """Returns whether a node is a softmax."""
    return is_call(node, (F.softmax, torch.softmax), ("softmax",))


def is_matmul(node: Any) -> TypeGuard[Node]:
    """Returns whether a node is a matrix multiplication, batched or not, other than an einsum."""
    return is_call(node, _MATMUL, _MATMUL_NAMES)


def is_transposed(node: Any) -> TypeGuard[Node]:
    """Returns whether a node is the attribute `mT` of a tensor."""
    return is_call(node, (), ("mT",)) or (
        is_call(node, (getattr,), ()) and node.args[1:] == ("mT",)
    )


def as_matmul(node: Any) -> MatMul | None:
    """Returns the operands of a batched matrix multiplication, None for other nodes."""
    if is_matmul(node) and len(node.args) == 2 and not node.kwargs:
        left, right = node.args
        if isinstance(left, Node) and isinstance(right, Node):
            below = _untransposed(right)
            return MatMul(left, below or right, below is not None)
    if is_call(node, (torch.einsum,), ("einsum",)) and not node.kwargs:
        equation, *operands = node.args
        if len(operands) == 1 and isinstance(operands[0], (tuple, list)):
            operands = list(operands[0])
        if len(operands) == 2:
            return _einsum(equation, *operands)
    return None


def strip_scale(node: Any) -> tuple[list[Node], Any, float]:
    """Strips multiplications and divisions by a number.

    Returns:
        The stripped nodes, the node below them, and their total factor.
    """
    stripped: list[Node] = []
    scale = 1.0
    while (
        is_call(node, (*_MULTIPLY, *_DIVIDE), ("mul", "mul_", *_DIVIDE_NAMES)) and not node.kwargs
    ):
        below, factor = node.args[:2]
        if is_call(node, _DIVIDE, _DIVIDE_NAMES):
            factor = 1 / factor if isinstance(factor, (int, float)) and factor else None
        elif isinstance(below, (int, float)):
            below, factor = factor, below
        if not isinstance(factor, (int, float)):
            break
        stripped.append(node)
        node, scale = below, scale * factor
    return stripped, node, scale


def strip_dropout(node: Any) -> tuple[list[Node], Any]:
    """Strips dropout that changes nothing: with probability 0, or in eval mode.

    Returns:
        The stripped nodes, and the node below them.
    """
    stripped: list[Node] = []
    while is_call(node, (F.dropout, torch.dropout), ("dropout",)):
        probability, training = argument(node, 1, "p"), argument(node, 2, "training")
        if probability != 0 and training is not False:
            break
        stripped.append(node)
        node = source(node)
    return stripped, node


def is_sum_with_matmul(node: Any) -> bool:
    """Returns whether a node adds something to the result of a matrix multiplication.

    Views between the sums, as in windowed attention with a bias and a mask, are looked through.
    """
    for _ in range(8):
        if is_call(node, _ADD, _ADD_NAMES):
            left = strip_scale(node.args[0])[1]
            if as_matmul(left) is not None:
                return True
            node = left
        elif is_call(node, (), ("view", "reshape", "unsqueeze")):
            node = source(node)
        else:
            return False
    return False


def _einsum(equation: Any, left: Any, right: Any) -> MatMul | None:
    """Reads `bqd,bkd->bqk` and `bqk,bkd->bqd`, with any letters and any number of batch letters."""
    if not (isinstance(equation, str) and isinstance(left, Node) and isinstance(right, Node)):
        return None
    operands, _, result = equation.replace(" ", "").partition("->")
    first, _, second = operands.partition(",")
    if not (len(first) == len(second) == len(result) > 2 and len(set(first)) == len(first)):
        return None
    batch, rows, inner = first[:-2], first[-2], first[-1]
    if not second.startswith(batch) or not result.startswith(batch + rows):
        return None
    columns = result[-1]
    if columns in first:
        return None
    if second[-2:] == columns + inner:
        return MatMul(left, right, True)
    return MatMul(left, right, False) if second[-2:] == inner + columns else None


def _untransposed(node: Node) -> Node | None:
    """Returns the input of a swap of the last two dimensions, None for other nodes."""
    value = example(node)
    if value is None or not node.args or not isinstance(node.args[0], Node):
        return None
    below, dims = node.args[0], value.dim()
    if is_call(node, _SWAP, ("transpose", "swapaxes", "swapdims")):
        axes = {a % dims for a in node.args[1:3] if isinstance(a, int)}
    elif is_call(node, (torch.permute,), ("permute",)):
        order: Any = node.args[1] if isinstance(node.args[1], (tuple, list)) else node.args[1:]
        swapped = [*range(dims - 2), dims - 1, dims - 2]
        axes = {dims - 2, dims - 1} if [a % dims for a in order] == swapped else set()
    elif is_transposed(node):
        axes = {dims - 2, dims - 1}
    else:
        return None
    return below if axes == {dims - 2, dims - 1} else None
