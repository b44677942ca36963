"""Layouts and dtypes: channels-last inside what patterns write, outside what users had."""

from typing import Any

import torch
from torch.fx import Graph, Node

from mammoth_compiled.compiler.nodes import example

# Set in the metadata of nodes whose value is in channels-last, whatever eager's is.
_MARK = "mammoth_channels_last"


def replace_with(graph: Graph, last: Node, result: Node) -> None:
    """Puts a channels-last result in place of a node, for its users in the layout they had.

    Args:
        graph: The graph, whose insertion point does not matter.
        last: The node that is replaced; it stays, without users.
        result: The new node, which computes the same.
    """
    result.meta = {**last.meta, _MARK: True}
    with graph.inserting_after(result):
        plain = graph.call_method("contiguous", (result,))
        plain.meta = dict(last.meta)
    last.replace_all_uses_with(plain)


def channels_last(graph: Graph, user: Node, images: Node) -> Node:
    """Returns a node with the same images in channels-last, made before `user` where it is not yet.

    Args:
        graph: The graph.
        user: Who is going to read it.
        images: [B, C, H, W].
    """
    if images.op == "call_method" and images.target == "contiguous" and len(images.args) == 1:
        before = images.args[0]
        if isinstance(before, Node) and before.meta.get(_MARK):
            return before
    with graph.inserting_before(user):
        layout: dict[str, Any] = {"memory_format": torch.channels_last}
        reordered = graph.call_method("contiguous", (images,), layout)
        reordered.meta = dict(images.meta)
    return reordered


def product_dtype(value: torch.Tensor) -> torch.dtype:
    """Returns the dtype in which torch would take products of a value: autocast's, or its own."""
    device = value.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else value.dtype


def cast(graph: Graph, user: Node, node: Node, dtype: torch.dtype) -> Node:
    """Returns a node with the same value in a dtype, made before `user` where it is another.

    Autocast casts the inputs of torch's own operators; it does not know ours.
    """
    value = example(node)
    if value is None or value.dtype == dtype:
        return node
    with graph.inserting_before(user):
        result = graph.call_method("to", (node, dtype))
        result.meta = dict(node.meta)
    return result
