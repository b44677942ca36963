"""Softmax attention without an L x L tensor in memory on a GPU: reference and operators."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from mammoth_compiled.kernels.launch import input_precision, on_gpu, operator
from mammoth_compiled.kernels.problem import Work

# The Triton kernels keep a whole row on the chip.
MAX_HEAD_SIZE = 128

Three = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def reference(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes softmax(q k^T * scale) v, as Vaswani et al. 2017 (arXiv 1706.03762), equation 1.

    float16 and bfloat16 are computed in float32. A NaN in a query makes the result of that query
    NaN; so do scores that are all -inf or have +inf among them.

    Args:
        q: [B, H, LQ, D], float.
        k: [B, H, LK, D].
        v: [B, H, LK, D].
        scale: Factor of the scores.

    Returns:
        The result, [B, H, LQ, D], and for every query log2(sum over keys of exp(score)),
        [B, H, LQ], in float32 (float64 for float64).
    """
    score = _scores(q, k, scale)
    highest = score.amax(-1, keepdim=True)
    # Scores of -inf only sum to 0, and not to NaN: -inf - -inf.
    shift = torch.where(highest == float("-inf"), 0.0, highest)
    weight = torch.exp2(score - shift)
    norm = weight.sum(-1, keepdim=True)
    o = (weight / norm) @ v.to(weight.dtype)
    return o.to(q.dtype), (highest + torch.log2(norm)).squeeze(-1)


def reference_backward(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    o: torch.Tensor,
    lse: torch.Tensor,
    scale: float,
) -> Three:
    """Computes the gradients of q, k and v, as Dao et al. 2022 (arXiv 2205.14135), appendix B.4.

    Args:
        grad: Gradient of the result, [B, H, LQ, D].
        q: [B, H, LQ, D].
        k: [B, H, LK, D].
        v: [B, H, LK, D].
        o: The result.
        lse: What `reference` gave with it.
        scale: Factor of the scores.

    Returns:
        In the shapes and dtype of q, k and v.
    """
    weight = torch.exp2(_scores(q, k, scale) - lse.unsqueeze(-1))
    grad_, q_, k_, v_, o_ = (x.to(weight.dtype) for x in (grad, q, k, v, o))
    delta = (o_ * grad_).sum(-1, keepdim=True)
    grad_score = weight * (grad_ @ v_.mT - delta) * scale
    grads = (grad_score @ k_, grad_score.mT @ q_, weight.mT @ grad_)
    return grads[0].to(q.dtype), grads[1].to(q.dtype), grads[2].to(q.dtype)


def has_kernel(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> bool:
    """Returns whether the operators take Triton kernels for these tensors, else the reference.

    They do on a GPU for heads of at most MAX_HEAD_SIZE numbers, in bfloat16, in float16, and in
    float32 if torch's matrix products may take tf32. Strict float32 has no tensor cores, and tiles
    of that many accumulators do not fit into registers: F.scaled_dot_product_attention is the
    better choice there.
    """
    if not on_gpu(q, k, v) or q.shape[-1] > MAX_HEAD_SIZE:
        return False
    if q.dtype == torch.float32:
        return input_precision(q.dtype, convolution=False) == "tf32"
    return q.dtype in (torch.bfloat16, torch.float16)


@operator("attention")
def attention_op(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes what `reference` does, with Triton where `has_kernel` says so.

    The result lies in memory as [B, LQ, H, D], so that heads side by side are a view of it. The
    logarithms have no gradient.

    Raises:
        ValueError: If shapes or dtypes of q, k and v do not fit together.
    """
    _check(q, k, v)
    if has_kernel(q, k, v):
        from mammoth_compiled.kernels.gpu import attention as gpu

        return gpu.forward(q, k, v, scale)
    o, lse = reference(q, k, v, scale)
    return _by_token(o), lse


@operator("attention_backward")
def attention_backward_op(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    o: torch.Tensor,
    lse: torch.Tensor,
    scale: float,
) -> Three:
    """Computes what `reference_backward` does, laid out as the result of `attention_op` is."""
    if has_kernel(q, k, v):
        from mammoth_compiled.kernels.gpu import attention as gpu

        return gpu.backward(grad, q, k, v, _by_token(o), lse, scale)
    grads = reference_backward(grad, q, k, v, o, lse, scale)
    return _by_token(grads[0]), _by_token(grads[1]), _by_token(grads[2])


@attention_op.register_fake
def _fake(q: Any, k: Any, v: Any, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    _check(q, k, v)
    return _empty(q), q.new_empty(q.shape[:-1], dtype=_wide(q.dtype))


@attention_backward_op.register_fake
def _fake_backward(grad: Any, q: Any, k: Any, v: Any, o: Any, lse: Any, scale: float) -> Three:
    return _empty(q), _empty(k), _empty(v)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad: torch.Tensor, _: Any) -> tuple[torch.Tensor | None, ...]:
    return *attention_backward_op(grad, *ctx.saved_tensors, ctx.scale), None


attention_op.register_autograd(_backward, setup_context=_setup)


def projections(
    x: torch.Tensor, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor | None]
) -> tuple[torch.Tensor, ...]:
    """Computes several linear layers of the same input as one matrix product.

    Gradients flow to each weight and bias. The results are views of one tensor, and the attention
    kernels read them where they are.

    One launch instead of n, and x is read once; likewise one product for its gradient and one for
    those of the weights, instead of n of each and n - 1 additions. It costs, in numbers read and as
    many written: all weights and biases once in each step, to lay them side by side, and T numbers
    per row of theirs in the backward, to lay the gradients of the T tokens side by side. That pays
    where launches bound the time, at up to a few thousand tokens in the whole batch.

    Args:
        x: [..., C].
        weights: Each [N_i, C].
        biases: Each [N_i], or None where a layer has none.

    Returns:
        Each [..., N_i], x @ weight.T + bias.

    Raises:
        ValueError: If there are not as many biases as weights, or a weight does not take x.
    """
    if not weights or len(weights) != len(biases):
        raise ValueError(
            f"projections() got {len(weights)} weights and {len(biases)} biases; give at least one "
            "weight, and for each a bias or None"
        )
    shapes = [tuple(weight.shape) for weight in weights]
    if any(len(shape) != 2 or shape[1] != x.shape[-1] for shape in shapes):
        raise ValueError(
            f"projections() got weights of shapes {shapes} for an input of {x.shape[-1]} features; "
            f"each must be [N, {x.shape[-1]}]"
        )
    bias = None
    if any(b is not None for b in biases):
        pairs = zip(weights, biases, strict=True)
        bias = torch.cat([w.new_zeros(w.shape[0]) if b is None else b for w, b in pairs])
    joint = F.linear(x, torch.cat(list(weights)), bias)
    return joint.split([shape[0] for shape in shapes], dim=-1)


def work(shape: Sequence[int], keys: int, dtype: torch.dtype, *, backward: bool = False) -> Work:
    """Returns what attention needs at least, each tensor moved once; exponentials not counted.

    The backward's five products do not count the two that its kernel computes a second time.

    Args:
        shape: (B, H, LQ, D) of q.
        keys: LK.
        dtype: Of all tensors but the logarithms.
        backward: Count the gradients of q, k and v, instead of the forward.
    """
    batch, heads, queries, size = shape
    products = 5 if backward else 2
    # q and o, k and v; the backward reads or writes a gradient of each as well.
    rows = (4 if backward else 2) * batch * heads * (queries + keys)
    logarithms = batch * heads * queries * _wide(dtype).itemsize
    return Work(
        bytes_moved=rows * size * dtype.itemsize + logarithms,
        operations=products * 2 * batch * heads * queries * keys * size,
    )


def _scores(q: torch.Tensor, k: torch.Tensor, scale: float) -> torch.Tensor:
    """Returns the scores as base-2 logarithms of the weights before their division."""
    wide = _wide(q.dtype)
    return (q.to(wide) @ k.to(wide).mT) * (scale * math.log2(math.e))


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _by_token(x: torch.Tensor) -> torch.Tensor:
    """Lays [B, H, L, D] out as [B, L, H, D]."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def _empty(x: torch.Tensor) -> torch.Tensor:
    batch, heads, length, size = x.shape
    return x.new_empty((batch, length, heads, size)).transpose(1, 2)


def _check(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    if not (q.dtype == k.dtype == v.dtype and q.is_floating_point()):
        raise ValueError(
            f"attention got q, k, v of {q.dtype}, {k.dtype}, {v.dtype}; all three must have one "
            "float dtype"
        )
    fits = q.dim() == 4 and k.dim() == 4 and k.shape == v.shape
    if not fits or q.shape[:2] != k.shape[:2] or q.shape[3] != k.shape[3] or 0 in q.shape + k.shape:
        raise ValueError(
            f"attention got q, k, v of shapes {list(q.shape)}, {list(k.shape)}, {list(v.shape)}; "
            "they must be [B, H, LQ, D], [B, H, LK, D] and [B, H, LK, D], and none may be empty"
        )
