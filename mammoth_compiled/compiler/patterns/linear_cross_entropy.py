"""Pattern: a linear classifier whose logits only a mean cross-entropy reads."""

import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.nn import functional as F

from mammoth_compiled.compiler.autotune import select
from mammoth_compiled.compiler.layouts import cast, channels_last_of, example_in
from mammoth_compiled.compiler.matmuls import is_linear
from mammoth_compiled.compiler.nodes import argument, example, is_call, source
from mammoth_compiled.compiler.pattern import (
    DYNAMIC_SIZE,
    FASTER_IN_TORCH,
    Match,
    register_pattern,
)
from mammoth_compiled.kernels.linear_cross_entropy import IMPLEMENTATIONS, linear_cross_entropy_op
from mammoth_compiled.kernels.linear_cross_entropy.cases import LinearCrossEntropyCase
from mammoth_compiled.kernels.runtime.implementations import Implementation, usable

_NAMES = (
    *("input", "target", "weight", "size_average", "ignore_index", "reduce", "reduction"),
    "label_smoothing",
)


@register_pattern(priority=10, effect="logits and their gradient are not written to memory")
def linear_cross_entropy(graph: Graph) -> Iterable[Match]:
    """Replaces a linear layer and its loss by two kernels that also compute all gradients.

    Only where the loss is in the graph: with `--whole_step`, or if user code compiles it.
    """
    for node in list(graph.nodes):
        if not is_call(node, (F.cross_entropy,), ()):
            continue
        given = {**dict(zip(_NAMES, node.args, strict=False)), **node.kwargs}
        casts, linear = _strip_casts(given["input"])
        if not is_linear(linear):
            continue
        reason, replacement = _why_not(given, casts, linear), ""
        if not reason:
            best, reason = _select(given, linear)
            if best.name != "torch":
                reason, replacement = "", best.description
                _replace(graph, node, given, casts, linear)
        yield Match("linear-cross-entropy", node.name, reason, replacement)


def _strip_casts(node: Any) -> tuple[list[Node], Any]:
    """Returns casts to float32, last first, and the node below them."""
    casts: list[Node] = []
    while is_call(node, (), ("float",)) or (
        is_call(node, (), ("to",)) and node.args[1:] == (torch.float32,) and not node.kwargs
    ):
        casts.append(node)
        node = source(node)
    return casts, node


def _why_not(given: dict[str, Any], casts: list[Node], linear: Node) -> str:
    """Returns why the graph does not allow a replacement, whatever the implementation."""
    if any(len(n.users) != 1 for n in (*casts, linear)):
        return "the logits are used elsewhere, too"
    plain = given.get("reduction", "mean") == "mean" and not given.get("label_smoothing")
    if not plain or any(given.get(name) is not None for name in _NAMES[2:4] + _NAMES[5:6]):
        return "it is not the plain mean over the batch"
    x, labels, logits = (example(n) for n in (source(linear), given["target"], linear))
    if x is None or labels is None or logits is None or x.dim() != 2:
        return "its shapes are unknown, or its features are not [B, F]"
    if not x.is_cuda:
        return "its kernels need a GPU"
    if labels.dtype != torch.int64:
        return "its targets are not classes"
    if not torch.is_grad_enabled() or not logits.requires_grad:
        return "nothing is trained"
    if not all(isinstance(size, int) for size in x.shape):
        return DYNAMIC_SIZE
    return ""


def _select(given: dict[str, Any], linear: Node) -> tuple[Implementation, str]:
    """Returns the implementation, and why it is torch's if it is."""
    logits, labels = example(linear), example(given["target"])
    assert logits is not None
    assert labels is not None
    features = linear.args[0]
    assert isinstance(features, Node)
    x = example_in(features, logits.dtype)
    weight, bias = (example(argument(linear, k, n)) for k, n in ((1, "weight"), (2, "bias")))
    args = (x, weight, bias, labels, _ignored(given))
    candidates, reasons = usable(IMPLEMENTATIONS, x.device, *args)

    def make_case() -> LinearCrossEntropyCase:
        batch, features = x.shape
        classes = logits.shape[1]
        return LinearCrossEntropyCase(x.dtype, batch, features, classes, bias is not None)

    best = select(candidates, x.device, make_case)
    return best, FASTER_IN_TORCH if len(candidates) > 1 else reasons[-1] if reasons else ""


def _ignored(given: dict[str, Any]) -> int:
    return int(given.get("ignore_index", -100))


def _replace(
    graph: Graph, node: Node, given: dict[str, Any], casts: list[Node], linear: Node
) -> None:
    logits = example(linear)
    assert logits is not None
    features, weight, bias = (
        argument(linear, k, n) for k, n in enumerate(("input", "weight", "bias"))
    )
    features, channels = _in_memory_order(graph, node, features)
    inputs = (cast(graph, node, features, logits.dtype), weight, bias, given["target"])
    with graph.inserting_before(node):
        results = graph.call_function(
            linear_cross_entropy_op._opoverload, (*inputs, _ignored(given), channels)
        )
        loss = graph.call_function(operator.getitem, (results, 0))
        loss.meta = dict(node.meta)
    node.replace_all_uses_with(loss)
    for old in (node, *casts, linear):
        graph.erase_node(old)


def _in_memory_order(graph: Graph, user: Node, features: Node) -> tuple[Node, int]:
    """Returns features in the order in which they are in memory, and their channels.

    Flattened images that a kernel wrote in channels-last are copied to be in the order of the
    weight, and so are their gradients. The kernels read the weight in the order of the images.

    Args:
        graph: The graph.
        user: The node that will read the features.
        features: [B, F].

    Returns:
        A node, [B, F], and C; the same node and 1 if features are not flattened images.
    """
    images = source(features) if _flattens(features) else None
    before = channels_last_of(images)
    if before is None:
        return features, 1
    with graph.inserting_before(user):
        moved = graph.call_method("permute", (before, 0, 2, 3, 1))
        flat = graph.call_method("flatten", (moved, 1))
    value = example(before)
    assert value is not None
    moved.meta = {**before.meta, "example_value": value.permute(0, 2, 3, 1)}
    flat.meta = dict(features.meta)
    return flat, value.shape[1]


def _flattens(node: Node) -> bool:
    """Returns whether a node flattens all dimensions of images but the first."""
    if not is_call(node, (torch.flatten,), ("flatten",)):
        return False
    end = argument(node, 2, "end_dim")
    return argument(node, 1, "start_dim") == 1 and end in (None, -1, 3)
