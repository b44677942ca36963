"""Pattern: convolution, relu and max pooling, in either order of the last two."""

from collections.abc import Iterable
from typing import Any

import torch
from torch.fx import Graph, Node

from mammoth_compiled.compiler.nodes import Pool, as_pool, example, is_conv, is_relu, source
from mammoth_compiled.compiler.patterns.match import Match
from mammoth_compiled.kernels.relu_pool import MAX_CELLS, relu_pool


def conv_relu_pool(graph: Graph) -> Iterable[Match]:
    """Replaces relu and pooling after a convolution, in either order, and runs it channels-last.

    On a CPU only: Inductor's backward of pooling scatters, and NCHW convolutions are reordered.
    """
    for last in list(graph.nodes):
        first = source(last)
        pool = as_pool(last) or as_pool(first)
        if pool is None or not (is_relu(last) or is_relu(first)):
            continue
        conv = source(first)
        reason = _why_not(conv, first, pool)
        yield Match("conv-relu-pool", last.name, reason)
        if not reason:
            _to_channels_last(graph, conv)
            with graph.inserting_before(last):
                fused = graph.call_function(relu_pool, (conv, pool.window))
                fused.meta = dict(last.meta)
                plain = graph.call_method("contiguous", (fused,))
                plain.meta = dict(last.meta)
            # Convolutions like channels-last; to anybody else the layout is as it was.
            last.replace_all_uses_with(plain)
            graph.erase_node(last)
            graph.erase_node(first)


def _why_not(conv: Any, middle: Node, pool: Pool) -> str:
    if not is_conv(conv):
        return "what comes before is not a convolution"
    if len(conv.users) != 1 or len(middle.users) != 1:
        return "a value in between is used elsewhere too"
    value = example(conv)
    if value is None or not value.is_floating_point() or value.dim() != 4:
        return "its input is not a float batch of images"
    if value.device.type != "cpu":
        return "not on a CPU"
    if not pool.tiles:
        return "the pooling windows overlap, are padded or leave gaps"
    if pool.window[0] * pool.window[1] > MAX_CELLS:
        return f"the pooling window has more than {MAX_CELLS} cells"
    return ""


def _to_channels_last(graph: Graph, conv: Node) -> None:
    """Makes a convolution read channels-last, straight from a fused pooling where it can."""
    before = source(conv)
    if isinstance(before, Node) and before.op == "call_method" and before.target == "contiguous":
        fused = source(before)
        if isinstance(fused, Node) and fused.target is relu_pool:
            conv.replace_input_with(before, fused)
            if not before.users:
                graph.erase_node(before)
            return
    with graph.inserting_before(conv):
        layout: dict[str, Any] = {"memory_format": torch.channels_last}
        reordered = graph.call_method("contiguous", (before,), layout)
        reordered.meta = dict(before.meta)
    conv.replace_input_with(before, reordered)
