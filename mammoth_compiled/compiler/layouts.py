"""Layouts and dtypes of what patterns insert: channels-last inside, the user's layout outside."""

from typing import Any

import torch
from torch.fx import Graph, Node

from mammoth_compiled.compiler.nodes import example

# Marks nodes whose value is channels-last, whatever its layout in eager mode.
_MARK = "mammoth_channels_last"


def replace_with(graph: Graph, last: Node, result: Node) -> None:
    """Replaces a node by a channels-last result, which its users get in the layout they had.

    Args:
        graph: The graph.
        last: The node to replace; it stays in the graph without users.
        result: The new node, with the same value.
    """
    result.meta = {**last.meta, _MARK: True}
    with graph.inserting_after(result):
        plain = graph.call_method("contiguous", (result,))
        plain.meta = dict(last.meta)
    last.replace_all_uses_with(plain)


def channels_last(graph: Graph, user: Node, images: Node) -> Node:
    """Returns a node with the same images in channels-last, inserted before `user` if needed.

    Args:
        graph: The graph.
        user: The node that will read it.
        images: [B, C, H, W].
    """
    before = channels_last_of(images)
    if before is not None:
        return before
    with graph.inserting_before(user):
        layout: dict[str, Any] = {"memory_format": torch.channels_last}
        reordered = graph.call_method("contiguous", (images,), layout)
        reordered.meta = dict(images.meta)
    return reordered


def channels_last_of(node: Node | None) -> Node | None:
    """Returns the channels-last images that a node of `replace_with` makes contiguous, if any."""
    if node is None or node.op != "call_method" or node.target != "contiguous":
        return None
    before = node.args[0]
    if len(node.args) == 1 and isinstance(before, Node) and before.meta.get(_MARK):
        return before
    return None


def autocast_dtype(value: torch.Tensor) -> torch.dtype:
    """Returns the dtype in which torch multiplies a value: that of autocast, or its own."""
    device = value.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else value.dtype


def cast(graph: Graph, user: Node, node: Node, dtype: torch.dtype) -> Node:
    """Returns a node with the same value in a dtype, inserted before `user` if needed.

    Autocast casts the inputs of torch's own operators, but not of ours.
    """
    value = example(node)
    if value is None or value.dtype == dtype:
        return node
    with graph.inserting_before(user):
        result = graph.call_method("to", (node, dtype))
        result.meta = dict(node.meta)
    return result


def example_in(node: Node, dtype: torch.dtype) -> torch.Tensor:
    """Returns the fake tensor of a node's value as `cast` would convert it.

    Args:
        node: A node whose example is known.
        dtype: The dtype.
    """
    value = example(node)
    assert value is not None
    return value.to(dtype)


def is_channels_last(node: Node) -> bool:
    """Returns whether images, [B, C, H, W], reach a pattern's replacement in channels-last."""
    if channels_last_of(node) is not None:
        return True
    value = example(node)
    return value is not None and value.is_contiguous(memory_format=torch.channels_last)
