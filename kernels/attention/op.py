"""Softmax attention: the operators and their implementations."""

from typing import Any

import torch
from torch.nn import functional as F

from mammoth_compiled.kernels.attention import reference
from mammoth_compiled.kernels.runtime.device import input_precision, triton_why_not
from mammoth_compiled.kernels.runtime.implementations import Implementation
from mammoth_compiled.kernels.runtime.operators import traced_operator

# The Triton kernels keep a whole row on the chip.
MAX_HEAD_SIZE = 128
# From here on torch's fused attention trains faster on a CPU: benchmarks/results/attention.json.
MIN_CPU_TOKENS = 512

Three = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def kernel_why_not(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any) -> str:
    """Returns why the operators use the reference for these tensors, "" if they use Triton.

    The kernels run on a GPU for heads of at most MAX_HEAD_SIZE elements, in bfloat16, in float16,
    and in float32 if torch may use TF32 for matrix multiplications. Strict float32 has no tensor
    cores, and its accumulators do not fit into registers; F.scaled_dot_product_attention is the
    better choice there.
    """
    reason = triton_why_not(q, k, v)
    if reason:
        return reason
    if q.shape[-1] > MAX_HEAD_SIZE:
        return f"its heads have more than {MAX_HEAD_SIZE} elements"
    if q.dtype == torch.float32 and input_precision(q.dtype, convolution=False) != "tf32":
        return "there is no kernel for strict float32"
    return ""


@traced_operator("attention")
def attention_op(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes `reference.forward`, with Triton unless `kernel_why_not` says otherwise.

    The output is laid out as [B, LQ, H, D], so that concatenated heads are a view of it. The
    log-sum-exp has no gradient.

    Raises:
        ValueError: If shapes or dtypes of q, k and v do not fit together.
    """
    _check(q, k, v)
    if kernel_why_not(q, k, v):
        o, lse = reference.forward(q, k, v, scale)
        return _token_major(o), lse
    from mammoth_compiled.kernels.attention import triton

    return triton.forward(q, k, v, scale)


@traced_operator("attention_backward")
def attention_backward_op(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    o: torch.Tensor,
    lse: torch.Tensor,
    scale: float,
) -> Three:
    """Computes `reference.backward`, in the layout of the output of `attention_op`."""
    if kernel_why_not(q, k, v):
        grads = reference.backward(grad, q, k, v, o, lse, scale)
        return _token_major(grads[0]), _token_major(grads[1]), _token_major(grads[2])
    from mammoth_compiled.kernels.attention import triton

    return triton.backward(grad, q, k, v, _token_major(o), lse, scale)


@attention_op.register_fake
def _fake(q: Any, k: Any, v: Any, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    _check(q, k, v)
    return _empty(q), q.new_empty(q.shape[:-1], dtype=reference.accumulation_dtype(q.dtype))


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


def _token_major(x: torch.Tensor) -> torch.Tensor:
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


def _triton(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    o: torch.Tensor = attention_op(q, k, v, scale)[0]
    return o


def _sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


def _torch(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    return torch.softmax(q @ k.transpose(-2, -1) * scale, -1) @ v


def _sdpa_why_not(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any) -> str:
    # On a GPU it is an alternative to the Triton kernel only.
    return triton_why_not(q, k, v) if q.is_cuda else ""


def _sdpa_why_slow(q: torch.Tensor, *_: Any) -> str:
    few = q.is_cpu and q.shape[-2] < MIN_CPU_TOKENS
    return f"under {MIN_CPU_TOKENS} tokens the fused form is not faster on a CPU" if few else ""


# Each takes (q, k, v, scale), the tensors as [B, H, L, D].
IMPLEMENTATIONS = (
    Implementation("triton", "one Triton kernel", _triton, "cuda", kernel_why_not),
    Implementation(
        "sdpa",
        "torch's scaled_dot_product_attention",
        _sdpa,
        why_not=_sdpa_why_not,
        why_slow=_sdpa_why_slow,
    ),
    Implementation("torch", "torch", _torch),
)
