"""Pattern: convolution, relu and max pooling, in either order of the last two."""

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, Node

from mammoth_compiled.compiler import dispatch
from mammoth_compiled.compiler.nodes import (
    Conv,
    Pool,
    as_conv,
    as_pool,
    example,
    is_batch_norm,
    is_conv,
    is_open,
    is_relu,
    source,
)
from mammoth_compiled.compiler.patterns.layout import (
    cast,
    channels_last,
    replace_with,
)
from mammoth_compiled.compiler.patterns.match import OPEN_SIZE, Match
from mammoth_compiled.compiler.ways import FUSED, POOL, UNFUSED, ConvProblem
from mammoth_compiled.kernels import launch
from mammoth_compiled.kernels.configs import concrete
from mammoth_compiled.kernels.conv_relu_pool import conv_relu_pool_cpu_op, conv_relu_pool_op
from mammoth_compiled.kernels.cpu import library
from mammoth_compiled.kernels.relu_pool import MAX_CELLS, relu_pool, relu_pool_op

# With fewer a vector of AVX-512 is not full: benchmarks/results/cpu_convolutions.json.
FEWEST_FILTERS = 16


@dataclass(frozen=True)
class _Place:
    """Where relu and pooling meet: `last` and `first` are the two, `producer` is before them."""

    last: Node
    first: Node
    producer: Node
    pool: Pool
    value: torch.Tensor


def conv_relu_pool(graph: Graph) -> Iterable[Match]:
    """Replaces relu and pooling after a convolution, in either order, and runs it channels-last.

    On a CPU, since Inductor's backward of pooling scatters and NCHW convolutions are reordered. On
    a GPU one kernel takes all three, or one takes relu and pooling, whichever is faster there.
    """
    for last in list(graph.nodes):
        first = source(last)
        pool = as_pool(last) or as_pool(first)
        if pool is None or not (is_relu(last) or is_relu(first)):
            continue
        producer = source(first)
        value = example(producer)
        reason, by = _why_not(producer, first, pool, value), ""
        if not reason:
            assert value is not None
            place = _Place(last, first, producer, pool, value)
            if value.device.type == "cpu":
                by = _on_cpu(graph, place)
            else:
                by = _on_gpu(graph, place)
                reason = "" if by else "torch's own kernels were measured to be faster"
        yield Match("conv-relu-pool", last.name, reason, by)


def _why_not(producer: object, first: Node, pool: Pool, value: torch.Tensor | None) -> str:
    on_cpu = value is None or value.device.type == "cpu"
    if not is_conv(producer) and (on_cpu or not is_batch_norm(producer)):
        return f"what comes before is not a convolution{'' if on_cpu else ' or a batch norm'}"
    assert isinstance(producer, Node)
    if len(producer.users) != 1 or len(first.users) != 1:
        return "a value in between is used elsewhere too"
    if value is None or not value.is_floating_point() or value.dim() != 4:
        return "its input is not a float batch of images"
    if pool.window[0] * pool.window[1] > MAX_CELLS:
        return f"the pooling window has more than {MAX_CELLS} cells"
    if on_cpu:
        return "" if pool.tiles else "the pooling windows overlap, are padded or leave gaps"
    if is_open(value):
        return OPEN_SIZE
    if not launch.supports(value.device):
        return "Triton kernels want a CUDA GPU of compute capability 8.0 or newer, and Triton"
    if pool.dilation != (1, 1) or pool.ceil_mode:
        return "the pooling windows are dilated or rounded up"
    return "" if value.dtype in launch.KERNEL_DTYPES else f"there is no kernel for {value.dtype}"


def _on_cpu(graph: Graph, place: _Place) -> str:
    conv = as_conv(place.producer)
    if conv is not None and _has_cpp(conv, place):
        _replace_all(graph, place, conv, conv_relu_pool_cpu_op)
        return "one C++ kernel"
    _read_channels_last(graph, place.producer)
    with graph.inserting_before(place.last):
        fused = graph.call_function(relu_pool, (place.producer, place.pool.window))
    _finish(graph, place, fused)
    return "channels-last convolution, relu+pool without scatter"


def _has_cpp(conv: Conv, place: _Place) -> bool:
    """Returns whether one C++ kernel can take convolution, relu and pooling."""
    tiles_2x2 = place.pool.tiles and place.pool.window == (2, 2)
    value = place.value
    enough = value.shape[1] >= FEWEST_FILTERS and value.dtype == torch.float32
    return conv.is_3x3 and tiles_2x2 and enough and not library.why_not()


def _on_gpu(graph: Graph, place: _Place) -> str:
    """Rewrites for a GPU and returns what was taken, "" if nothing is better than torch."""
    way = _fastest(place)
    if way == UNFUSED:
        return ""
    conv, pool = as_conv(place.producer), place.pool
    if way == FUSED:
        assert conv is not None
        _replace_all(graph, place, conv, conv_relu_pool_op)
        return "one Triton kernel"
    if conv is not None:
        _read_channels_last(graph, place.producer)
    sizes = [list(pair) for pair in (pool.window, pool.stride, pool.padding)]
    _call_first(graph, place, relu_pool_op, (place.producer, *sizes))
    return f"{'cuDNN and a' if conv is not None else 'a'} Triton kernel for relu+pool"


def _replace_all(graph: Graph, place: _Place, conv: Conv, target: Any) -> None:
    """Replaces convolution, relu and pooling by an operator of images, weight and bias."""
    inputs = [conv.images, conv.weight, *([conv.bias] if conv.bias is not None else [])]
    cast_inputs = [cast(graph, place.last, node, place.value.dtype) for node in inputs]
    cast_inputs[0] = channels_last(graph, place.last, cast_inputs[0])
    _call_first(graph, place, target, (*cast_inputs, *[None] * (3 - len(inputs))))
    graph.erase_node(place.producer)


def _call_first(graph: Graph, place: _Place, target: Any, args: tuple[Any, ...]) -> None:
    """Puts the first result of an operator in place of relu and pooling."""
    with graph.inserting_before(place.last):
        both = graph.call_function(target._opoverload, args)
        result = graph.call_function(operator.getitem, (both, 0))
    _finish(graph, place, result)


def _finish(graph: Graph, place: _Place, result: Node) -> None:
    replace_with(graph, place.last, result)
    graph.erase_node(place.last)
    graph.erase_node(place.first)


def _read_channels_last(graph: Graph, conv: Node) -> None:
    before = source(conv)
    conv.replace_input_with(before, channels_last(graph, conv, before))
    if not before.users:
        graph.erase_node(before)


def _fastest(place: _Place) -> str:
    conv, pool, value = as_conv(place.producer), place.pool, place.value
    images = example(conv.images) if conv is not None else None
    tiles_2x2 = pool.tiles and pool.window == (2, 2)
    if conv is None or images is None or not (conv.is_3x3 and tiles_2x2):
        return POOL  # nothing to choose from: torch's backward scatters
    precision = launch.input_precision(value.dtype, convolution=True)
    if value.dtype == torch.float32 and precision == "ieee":
        return POOL  # without tensor cores cuDNN has algorithms that do less work
    batch, channels, height, width = images.shape
    problem = ConvProblem(
        value.dtype,
        concrete(batch),
        channels,
        height,
        width,
        value.shape[1],
        bias=conv.bias is not None,
        needs_input_grad=images.requires_grad,
        train=torch.is_grad_enabled(),
    )
    return dispatch.fastest("conv_relu_pool", str(problem), value.device, problem.ways)
