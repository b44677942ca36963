"""A linear layer with mean cross-entropy: the operator and its implementations."""

from typing import Any

import torch
from torch.nn import functional as F

from mammoth_compiled.kernels.linear_cross_entropy import reference
from mammoth_compiled.kernels.runtime.device import input_precision, triton_why_not
from mammoth_compiled.kernels.runtime.implementations import Implementation
from mammoth_compiled.kernels.runtime.operators import traced_operator

# A program keeps the logits of some rows in registers.
MAX_CLASSES = 256
# Programs that split the logits, about one per multiprocessor; a constant rather than the chip's
# number, so that sums have the same order everywhere.
NUM_PROGRAMS, MAX_SPLITS = 128, 32
# Of the partial logits, which every program of the second kernel sums.
MAX_PARTIAL_BYTES = 512 * 1024


@traced_operator("linear_cross_entropy")
def linear_cross_entropy_op(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    labels: torch.Tensor,
    ignore_index: int,
    channels: int = 1,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Computes `reference.loss_and_grads`, with Triton on a GPU.

    The loss is differentiable. Its backward multiplies the gradients, which are computed in
    forward, by the gradient of the loss; Inductor drops that where it is one.
    """
    if kernel_why_not(x, weight, bias, labels):
        return reference.loss_and_grads(x, weight, bias, labels, ignore_index, channels)
    from mammoth_compiled.kernels.linear_cross_entropy import triton

    precision = input_precision(x.dtype, convolution=False)
    return triton.loss_and_grads(x, weight, bias, labels, ignore_index, precision, channels)


def kernel_why_not(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor
) -> str:
    """Returns why the reference is used for these tensors, "" if the kernels are."""
    reason = triton_why_not(x)
    if reason:
        return reason
    others = [weight.dtype] if bias is None else [weight.dtype, bias.dtype]
    if x.dim() != 2 or labels.dim() != 1 or any(d not in (x.dtype, torch.float32) for d in others):
        return "features are not [B, F], or weights have another dtype"
    if weight.shape[0] > MAX_CLASSES:
        return f"it has more than {MAX_CLASSES} classes"
    return ""


@linear_cross_entropy_op.register_fake
def _fake(
    x: Any, weight: Any, bias: Any, labels: Any, ignore_index: int, channels: int = 1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    loss = x.new_empty((), dtype=torch.promote_types(x.dtype, torch.float32))
    grad_bias = weight.new_empty((weight.shape[0],)) if bias is None else torch.empty_like(bias)
    shapes = x.new_empty(x.shape), weight.new_empty(weight.shape)
    return loss, *shapes, grad_bias


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    ctx.has_bias = inputs[2] is not None
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output[1:])


def _backward(ctx: Any, grad: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
    x, weight, bias = (g * grad.to(g.dtype) for g in ctx.saved_tensors)
    return x, weight, bias if ctx.has_bias else None, None, None, None


linear_cross_entropy_op.register_autograd(_backward, setup_context=_setup)


def _triton(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    labels: torch.Tensor,
    ignore_index: int,
) -> torch.Tensor:
    loss: torch.Tensor = linear_cross_entropy_op(x, weight, bias, labels, ignore_index)[0]
    return loss


def _torch(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    labels: torch.Tensor,
    ignore_index: int,
) -> torch.Tensor:
    logits = F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
    return F.cross_entropy(logits.float(), labels, ignore_index=ignore_index)


def _why_not(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    labels: torch.Tensor,
    ignore_index: int,
) -> str:
    return kernel_why_not(x, weight, bias, labels)


def _why_slow(x: torch.Tensor, weight: torch.Tensor, *_: Any) -> str:
    blocks = -(-x.shape[0] // 32)
    splits = max(1, min(x.shape[1] // 32, NUM_PROGRAMS // blocks, MAX_SPLITS))
    num_bytes = splits * x.shape[0] * weight.shape[0] * torch.float32.itemsize
    too_large = num_bytes > MAX_PARTIAL_BYTES
    return "batch and classes are too many for partial logits" if too_large else ""


# Each takes (x, weight, bias, labels, ignore_index) and returns the loss.
IMPLEMENTATIONS = (
    Implementation("triton", "two Triton kernels", _triton, "cuda", _why_not, _why_slow),
    Implementation("torch", "torch", _torch),
)
