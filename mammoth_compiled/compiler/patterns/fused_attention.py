"""Pattern: attention that is fused already, as in the transformers of timm and torchvision."""

import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.nn import functional as F

from mammoth_compiled.compiler.autotune import select
from mammoth_compiled.compiler.layouts import autocast_dtype, cast
from mammoth_compiled.compiler.nodes import example, has_dynamic_sizes, is_call
from mammoth_compiled.compiler.pattern import (
    DYNAMIC_SIZE,
    FASTER_IN_TORCH,
    Match,
    register_pattern,
)
from mammoth_compiled.kernels.attention import IMPLEMENTATIONS, attention_op
from mammoth_compiled.kernels.attention.cases import AttentionCase
from mammoth_compiled.kernels.runtime.implementations import usable
from mammoth_compiled.kernels.runtime.tiles import representative_size

_NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
_FUSED = "it is torch's fused attention already"
_MODULE = F.multi_head_attention_forward
_MODULE_NAMES = (
    *("query", "key", "value", "embed_dim_to_check", "num_heads", "in_proj_weight"),
    *("in_proj_bias", "bias_k", "bias_v", "add_zero_attn", "dropout_p", "out_proj_weight"),
    *("out_proj_bias", "training", "key_padding_mask", "need_weights", "attn_mask"),
)
# Arguments of nn.MultiheadAttention that the replacement does not compute.
_UNSUPPORTED = (
    *("bias_k", "add_zero_attn", "key_padding_mask", "need_weights", "attn_mask"),
    *("use_separate_proj_weight", "static_k", "static_v"),
)


def self_attention(
    x: torch.Tensor,
    in_weight: torch.Tensor,
    in_bias: torch.Tensor | None,
    out_weight: torch.Tensor,
    out_bias: torch.Tensor | None,
    num_heads: int,
) -> tuple[torch.Tensor, None]:
    """Computes what nn.MultiheadAttention does for tokens [L, B, D] that attend to each other."""
    projected = F.linear(x, in_weight, in_bias).unflatten(-1, (3, num_heads, -1))
    query, key, value = projected.permute(2, 1, 3, 0, 4).unbind()
    attended = attention_op(query, key, value, query.shape[-1] ** -0.5)[0]
    return F.linear(attended.permute(2, 0, 1, 3).flatten(2), out_weight, out_bias), None


# Before the pattern for written-out attention, which inserts such calls.
@register_pattern(
    priority=35,
    functions=[self_attention],
    effect="the kernel that was measured to be the fastest is used",
)
def fused_attention(graph: Graph) -> Iterable[Match]:
    """Replaces attention that torch fuses by the Triton kernel, on a GPU where that is faster."""
    for node in list(graph.nodes):
        if is_call(node, (F.scaled_dot_product_attention,), ("scaled_dot_product_attention",)):
            given = _arguments(node, _NAMES)
            reason, replace = _why_not(given), _replace
        elif is_call(node, (_MODULE,), ()):
            given = _arguments(node, _MODULE_NAMES)
            reason, replace = _why_not_module(given), _replace_module
        else:
            continue
        yield Match("fused-attention", node.name, reason, "" if reason else "one Triton kernel")
        if not reason:
            replace(graph, node, given)


def _arguments(node: Node, names: tuple[str, ...]) -> dict[str, Any]:
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def _why_not(given: dict[str, Any]) -> str:
    query, key, value = (example(given[name]) for name in _NAMES[:3])
    if query is None or key is None or value is None:
        return "its shapes are unknown"
    if not query.is_cuda:
        return _FUSED
    if given.get("attn_mask") is not None or given.get("is_causal"):
        return "it has a mask"
    if given.get("dropout_p") or given.get("enable_gqa"):
        return "it has dropout or shares keys among heads"
    if query.dim() != 4 or key.shape != value.shape or query.shape[:2] != key.shape[:2]:
        return "queries, keys and values differ in size"
    return _why_not_triton(query, key, value, _scale(given, query))


def _why_not_module(given: dict[str, Any]) -> str:
    x = example(given["query"])
    if x is None:
        return "its shapes are unknown"
    if not x.is_cuda:
        return _FUSED
    if any(given.get(name) not in (None, False) for name in _UNSUPPORTED):
        return "it has a mask, returns its weights or projects keys and values separately"
    if not given["query"] is given["key"] is given["value"] or x.dim() != 3:
        return "queries, keys and values are not the same tokens"
    if given.get("dropout_p") and given.get("training", True):
        return "it has dropout"
    length, batch, width = x.shape
    heads = given["num_heads"]
    query = x.new_empty((batch, heads, length, width // heads))
    return _why_not_triton(query, query, query, (width // heads) ** -0.5)


def _why_not_triton(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
) -> str:
    """Returns why torch's own kernel is used for tensors [B, H, L, D], "" if it is not."""
    if any(has_dynamic_sizes(x) for x in (query, key, value)):
        return DYNAMIC_SIZE
    q, k, v = (x.to(autocast_dtype(x)) for x in (query, key, value))
    usable_ones, reasons = usable(IMPLEMENTATIONS, q.device, q, k, v, scale)
    # Writing it out again is not among the choices.
    candidates = [candidate for candidate in usable_ones if candidate.name != "torch"]

    def make_case() -> AttentionCase:
        return AttentionCase(
            q.dtype,
            batch=representative_size(q.shape[0]),
            heads=q.shape[1],
            queries=q.shape[2],
            keys=k.shape[2],
            head_size=q.shape[3],
            train=torch.is_grad_enabled(),
        )

    if candidates and select(candidates, q.device, make_case).name == "triton":
        return ""
    return FASTER_IN_TORCH if len(candidates) > 1 else reasons[0]


def _scale(given: dict[str, Any], query: torch.Tensor) -> float:
    scale = given.get("scale")
    return float(query.shape[-1] ** -0.5 if scale is None else scale)


def _replace(graph: Graph, node: Node, given: dict[str, Any]) -> None:
    value = example(given["value"])
    assert value is not None
    dtype = autocast_dtype(value)
    inputs = [cast(graph, node, given[name], dtype) for name in _NAMES[:3]]
    with graph.inserting_before(node):
        results = graph.call_function(attention_op._opoverload, (*inputs, _scale(given, value)))
        result = graph.call_function(operator.getitem, (results, 0))
        result.meta = dict(node.meta)
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def _replace_module(graph: Graph, node: Node, given: dict[str, Any]) -> None:
    names = ("query", "in_proj_weight", "in_proj_bias", "out_proj_weight", "out_proj_bias")
    inputs = (*(given[name] for name in names), given["num_heads"])
    with graph.inserting_before(node):
        result = graph.call_function(self_attention, inputs)
        result.meta = dict(node.meta)
    node.replace_all_uses_with(result)
    graph.erase_node(node)
