"""Pattern: convolution, ReLU and max pooling, in either order of the last two."""

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, Node

from mammoth_compiled.compiler.autotune import select
from mammoth_compiled.compiler.layouts import (
    cast,
    channels_last,
    example_in,
    is_channels_last,
    replace_with,
)
from mammoth_compiled.compiler.nodes import (
    Conv,
    Pool,
    as_conv,
    as_pool,
    example,
    has_dynamic_sizes,
    is_batch_norm,
    is_conv,
    is_relu,
    source,
)
from mammoth_compiled.compiler.pattern import (
    DYNAMIC_SIZE,
    FASTER_IN_TORCH,
    Match,
    register_pattern,
)
from mammoth_compiled.kernels import conv_relu_pool as fused
from mammoth_compiled.kernels import relu_pool as pooled
from mammoth_compiled.kernels.conv_relu_pool.cases import ConvReluPoolCase
from mammoth_compiled.kernels.runtime.implementations import Implementation, usable
from mammoth_compiled.kernels.runtime.tiles import representative_size

_OPERATORS = {
    "triton": fused.conv_relu_pool_op,
    "unpooled": fused.conv_relu_pool_unpooled_op,
    "cpp": fused.conv_relu_pool_cpp_op,
}


@dataclass(frozen=True)
class _Subgraph:
    """ReLU and pooling: `last` and `first` are the two, `producer` computes their input `value`."""

    last: Node
    first: Node
    producer: Node
    pool: Pool
    value: torch.Tensor

    @property
    def fusable_conv(self) -> Conv | None:
        """The convolution before, if one kernel could compute it with ReLU and pooling."""
        conv = as_conv(self.producer)
        is_2x2 = self.pool.is_disjoint and self.pool.window == (2, 2)
        return conv if conv is not None and conv.is_3x3 and is_2x2 else None


@register_pattern(
    priority=40,
    functions=[pooled.relu_pool],
    effect="only the pooled result is written to memory",
)
def conv_relu_pool(graph: Graph) -> Iterable[Match]:
    """Replaces ReLU and pooling after a convolution, in either order, and runs it channels-last.

    On a CPU, Inductor's backward of the pooling scatters, and contiguous convolutions are
    reordered. On a GPU one kernel computes all three, or one ReLU and pooling, whichever is faster.
    """
    for last in list(graph.nodes):
        first = source(last)
        pool = as_pool(last) or as_pool(first)
        if pool is None or not (is_relu(last) or is_relu(first)):
            continue
        producer = source(first)
        value = example(producer)
        reason, replacement = _why_not(producer, first, pool, value), ""
        if not reason:
            assert value is not None
            subgraph = _Subgraph(last, first, producer, pool, value)
            reason, replacement = _replace(graph, subgraph)
        yield Match("conv-relu-pool", last.name, reason, replacement)


def _why_not(producer: object, first: Node, pool: Pool, value: torch.Tensor | None) -> str:
    """Returns why the graph does not allow a replacement, whatever the implementation."""
    on_cpu = value is None or value.device.type == "cpu"
    if not is_conv(producer) and (on_cpu or not is_batch_norm(producer)):
        return f"its input is not from a convolution{'' if on_cpu else ' or a batch norm'}"
    assert isinstance(producer, Node)
    if len(producer.users) != 1 or len(first.users) != 1:
        return "an intermediate value is used elsewhere, too"
    if value is None or not value.is_floating_point() or value.dim() != 4:
        return "its input is not a float batch of images"
    if not on_cpu and has_dynamic_sizes(value):
        return DYNAMIC_SIZE
    if pool.dilation != (1, 1) or pool.ceil_mode:
        return "the pooling windows are dilated or rounded up"
    return ""


def _replace(graph: Graph, subgraph: _Subgraph) -> tuple[str, str]:
    """Replaces the subgraph; returns why not, or the description of the replacement."""
    conv = subgraph.fusable_conv
    if conv is not None and example(conv.images) is not None:
        best, reason = _select_fused(subgraph, conv)
        if best.name == "torch":
            return reason, ""
        if best.name != "relu_pool":
            _insert_fused(graph, subgraph, conv, best)
            return "", best.description
    pool = subgraph.pool
    args = (subgraph.value, pool.window, pool.stride, pool.padding)
    (best, *_), reasons = usable(pooled.IMPLEMENTATIONS, subgraph.value.device, *args)
    if best.name == "torch":
        return reasons[-1], ""
    return "", _insert_relu_pool(graph, subgraph, best)


def _select_fused(subgraph: _Subgraph, conv: Conv) -> tuple[Implementation, str]:
    """Returns the implementation of all three, and why it is torch's if it is."""
    dtype, device = subgraph.value.dtype, subgraph.value.device
    images = example_in(conv.images, dtype)
    weight = example_in(conv.weight, dtype)
    bias = None if conv.bias is None else example_in(conv.bias, dtype)
    candidates, reasons = usable(fused.IMPLEMENTATIONS, device, images, weight, bias)

    def make_case() -> ConvReluPoolCase:
        batch, channels, height, width = images.shape
        needs_grad, own = example(conv.images), example(conv.weight)
        assert needs_grad is not None
        assert own is not None
        return ConvReluPoolCase(
            dtype,
            representative_size(batch),
            channels,
            height,
            width,
            weight.shape[0],
            bias=bias is not None,
            needs_input_grad=needs_grad.requires_grad,
            train=torch.is_grad_enabled(),
            channels_last_images=is_channels_last(conv.images),
            channels_last_weight=weight.is_contiguous(memory_format=torch.channels_last),
            weight_dtype=own.dtype,
        )

    best = select(candidates, device, make_case)
    return best, FASTER_IN_TORCH if len(candidates) > 1 else reasons[-1] if reasons else ""


def _insert_fused(
    graph: Graph, subgraph: _Subgraph, conv: Conv, implementation: Implementation
) -> None:
    """Replaces convolution, ReLU and pooling by an operator of images, weight and bias."""
    last, dtype = subgraph.last, subgraph.value.dtype
    images = channels_last(graph, last, cast(graph, last, conv.images, dtype))
    weight, bias = conv.weight, conv.bias
    if implementation.name == "cpp":  # the others cast while they reorder
        weight = cast(graph, last, weight, dtype)
        bias = None if bias is None else cast(graph, last, bias, dtype)
    operator_ = _OPERATORS[implementation.name]
    _insert_operator(graph, subgraph, operator_, (images, weight, bias))
    graph.erase_node(subgraph.producer)


def _insert_relu_pool(graph: Graph, subgraph: _Subgraph, implementation: Implementation) -> str:
    """Replaces ReLU and pooling; returns the description."""
    producer, pool = subgraph.producer, subgraph.pool
    is_after_conv = as_conv(producer) is not None
    if is_after_conv:
        _read_channels_last(graph, producer)
    if implementation.name == "inductor":
        with graph.inserting_before(subgraph.last):
            result = graph.call_function(pooled.relu_pool, (producer, pool.window))
        _finish(graph, subgraph, result)
        return f"channels-last convolution, {implementation.description}"
    sizes = [list(pair) for pair in (pool.window, pool.stride, pool.padding)]
    _insert_operator(graph, subgraph, pooled.relu_pool_op, (producer, *sizes))
    return f"{'cuDNN and ' if is_after_conv else ''}{implementation.description}"


def _insert_operator(
    graph: Graph, subgraph: _Subgraph, operator_: Any, args: tuple[Any, ...]
) -> None:
    """Replaces ReLU and pooling by the first result of an operator."""
    with graph.inserting_before(subgraph.last):
        results = graph.call_function(operator_._opoverload, args)
        result = graph.call_function(operator.getitem, (results, 0))
    _finish(graph, subgraph, result)


def _finish(graph: Graph, subgraph: _Subgraph, result: Node) -> None:
    replace_with(graph, subgraph.last, result)
    graph.erase_node(subgraph.last)
    graph.erase_node(subgraph.first)


def _read_channels_last(graph: Graph, conv: Node) -> None:
    before = source(conv)
    conv.replace_input_with(before, channels_last(graph, conv, before))
    if not before.users:
        graph.erase_node(before)
