"""The functions of Mammoth's `models.gem` that other models use."""

from collections.abc import Callable, Iterable, Sequence

import torch

__all__ = ["overwrite_grad", "store_grad"]

ParametersFunction = Callable[[], Iterable[torch.nn.Parameter]]


@torch.no_grad()
def store_grad(params: ParametersFunction, grads: torch.Tensor, grad_dims: Sequence[int]) -> None:
    """Copies the gradients of all parameters into one vector, zero where there is none.

    Args:
        params: Returns the parameters, such as `model.parameters`.
        grads: The vector, [P].
        grad_dims: Number of elements of each parameter; their sum is P.
    """
    grads.zero_()
    for parameter, part in zip(params(), grads.split(list(grad_dims)), strict=True):
        if parameter.grad is not None:
            part.copy_(parameter.grad.reshape(-1))


@torch.no_grad()
def overwrite_grad(
    params: ParametersFunction, newgrad: torch.Tensor, grad_dims: Sequence[int]
) -> None:
    """Copies a vector into the gradients of all parameters that have one; see `store_grad`."""
    for parameter, part in zip(params(), newgrad.split(list(grad_dims)), strict=True):
        if parameter.grad is not None:
            parameter.grad.copy_(part.view_as(parameter.grad))
