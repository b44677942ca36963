"""3x3 convolution with stride and padding 1, for CPUs: reference and operators.

The C++ kernels compute it by Winograd's F(2x2, 3x3) (Lavin and Gray 2016, arXiv 1509.09308), with
2.25 times fewer products than torch and shorter sums, as a rule more exact. A pixel that is not
finite makes NaN of all results in the 2x2 tiles that read it, not only of those it is multiplied
for.
"""

from typing import Any

import torch
from torch.nn import functional as F

from mammoth_compiled.kernels.cpu import convolution as cpu
from mammoth_compiled.kernels.launch import channels_last, empty_images, on_cpu, opaque_operator


def conv3x3(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Computes `conv2d(x, weight, bias, padding=1)`. Differentiable.

    Args:
        x: [B, Cin, H, W], float, best in channels_last.
        weight: [Cout, Cin, 3, 3], same dtype; its gradient gets its layout.
        bias: [Cout], same dtype, or None.

    Returns:
        [B, Cout, H, W], in channels_last.
    """
    # Here and not only in the operator, so that the backward gets it in this layout too.
    y: torch.Tensor = conv3x3_op(channels_last(x), weight, bias)
    return y


def reference(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Computes `conv3x3` in plain torch; arguments and result are the same."""
    return channels_last(F.conv2d(x, weight, bias, padding=1))


def reference_input_grad(grad: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Computes the gradient of x in plain torch.

    Args:
        grad: [B, Cout, H, W].
        weight: [Cout, Cin, 3, 3].

    Returns:
        [B, Cin, H, W], in channels_last.
    """
    x = empty_images((grad.shape[0], weight.shape[1], *grad.shape[2:]), grad)
    return channels_last(backward_of_torch(grad, x, weight, (True, False, False))[0])


def reference_weight_grad(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """Computes the gradient of the weight in plain torch.

    Args:
        grad: [B, Cout, H, W].
        x: [B, Cin, H, W].
        weight: [Cout, Cin, 3, 3].

    Returns:
        [Cout, Cin, 3, 3] in the layout of the weight.
    """
    result = backward_of_torch(grad, x, weight, (False, True, False))[1]
    return torch.empty_like(weight).copy_(result)


def backward_of_torch(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, wanted: tuple[bool, bool, bool]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the gradients of x, weight and bias that are wanted, None for the others.

    Args:
        grad: [B, Cout, H, W].
        x: [B, Cin, H, W].
        weight: [Cout, Cin, 3, 3].
        wanted: Which of the three.
    """
    ones, nothing = [1, 1], [0, 0]
    grads: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = torch.ops.aten.convolution_backward(
        grad, x, weight, [weight.shape[0]], ones, ones, ones, False, nothing, 1, wanted
    )
    return grads


@opaque_operator("conv3x3")
def conv3x3_op(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Computes what `reference` does, in C++ on a CPU that has it."""
    if on_cpu(x):
        return cpu.conv3x3(channels_last(x), weight, bias)
    return reference(x, weight, bias)


@opaque_operator("conv3x3_input_grad")
def input_grad_op(grad: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Computes what `reference_input_grad` does, in C++ on a CPU that has it."""
    if on_cpu(grad):
        return cpu.input_grad(channels_last(grad), weight)
    return reference_input_grad(grad, weight)


@opaque_operator("conv3x3_weight_grad")
def weight_grad_op(grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Computes what `reference_weight_grad` does, in C++ on a CPU that has it."""
    if on_cpu(grad):
        return cpu.weight_grad(channels_last(grad), channels_last(x), weight)
    return reference_weight_grad(grad, x, weight)


@conv3x3_op.register_fake
def _fake(x: Any, weight: Any, bias: Any) -> torch.Tensor:
    return empty_images((x.shape[0], weight.shape[0], *x.shape[2:]), x)


@input_grad_op.register_fake
def _fake_input_grad(grad: Any, weight: Any) -> torch.Tensor:
    return empty_images((grad.shape[0], weight.shape[1], *grad.shape[2:]), grad)


@weight_grad_op.register_fake
def _fake_weight_grad(grad: Any, x: Any, weight: Any) -> torch.Tensor:
    return torch.empty_like(weight)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, weight, _ = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    wants_x, wants_weight, wants_bias = ctx.needs_input_grad
    return (
        input_grad_op(grad, weight) if wants_x else None,
        weight_grad_op(grad, x, weight) if wants_weight else None,
        grad.sum((0, 2, 3)) if wants_bias else None,
    )


conv3x3_op.register_autograd(_backward, setup_context=_setup)
