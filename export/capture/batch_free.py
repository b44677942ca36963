"""Replaces operations that torch computes in another way for large batches.

Such an operation needs a guard on the batch size, and a graph with a dynamic batch cannot have it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class BatchFree(TorchFunctionMode):
    """Computes distances in one way for all batch sizes.

    `torch.cdist` uses a matrix product if there are more than 25 rows.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Calls a function of torch, or its replacement."""
        if func is torch.cdist:
            func = _cdist
        return func(*args, **kwargs or {})


def _cdist(
    x1: torch.Tensor, x2: torch.Tensor, p: float = 2.0, compute_mode: str | None = None
) -> torch.Tensor:
    """Returns the distances between the rows of [..., P, M] and [..., R, M]: [..., P, R]."""
    return torch.linalg.vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, dim=-1)
