"""Sums over the rows of a matrix: the operator and its implementations."""

from typing import Any

import torch

from mammoth_compiled.kernels.row_sum import cpp
from mammoth_compiled.kernels.runtime.cpp_library import cpp_why_not
from mammoth_compiled.kernels.runtime.implementations import Implementation
from mammoth_compiled.kernels.runtime.operators import opaque_operator


@opaque_operator("sum_rows")
def sum_rows_op(x: torch.Tensor) -> torch.Tensor:
    """Computes the sum of the rows of x, [N, K], as [1, K], in C++ where possible.

    It is inserted where gradients are not needed any more, and has none.
    """
    return _torch(x) if reason_not(x) else cpp.sum_rows(x)


def reason_not(x: torch.Tensor) -> str:
    """Returns why the C++ kernel cannot add up the rows of x, "" if it can."""
    if x.dim() != 2 or not x.is_contiguous():
        return "its input is not a contiguous matrix"
    return cpp_why_not(x)


@sum_rows_op.register_fake
def _fake(x: Any) -> torch.Tensor:
    empty: torch.Tensor = x.new_empty(1, x.shape[1])
    return empty


def _torch(x: torch.Tensor) -> torch.Tensor:
    return x.sum(0, keepdim=True)


# Each takes x.
IMPLEMENTATIONS = (
    Implementation("cpp", "one C++ kernel", sum_rows_op, "cpu", reason_not),
    Implementation("torch", "torch", _torch),
)
