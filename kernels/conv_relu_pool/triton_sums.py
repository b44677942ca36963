"""The Triton kernels that add up the partial sums of weight gradients, of one layer or of two."""

from collections.abc import Mapping
from typing import Any

import triton
import triton.language as tl


@triton.jit
def _sum_block(
    program, partial, grad_weight, grad_bias, splits,
    CIN: tl.constexpr, COUT: tl.constexpr,
    WN: tl.constexpr, WC: tl.constexpr, WY: tl.constexpr, WX: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Adds up a block of partial sums, in a fixed order."""
    SIZE: tl.constexpr = COUT * 9 * CIN
    i = program * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK_S, BLOCK), tl.float32)
    for start in range(0, splits, BLOCK_S):
        split = start + tl.arange(0, BLOCK_S)
        valid = (split < splits)[:, None] & (i < SIZE + COUT)[None, :]
        offset = split.to(tl.int64)[:, None] * (SIZE + COUT) + i[None, :]
        total += tl.load(partial + offset, mask=valid, other=0.0)
    value = tl.sum(total, 0).to(grad_weight.dtype.element_ty)
    tap = i // CIN % 9
    offset = i // (9 * CIN) * WN + i % CIN * WC + tap // 3 * WY + tap % 3 * WX
    tl.store(grad_weight + offset, value, mask=i < SIZE)
    tl.store(grad_bias + i - SIZE, value, mask=(i >= SIZE) & (i < SIZE + COUT))


@triton.jit
def sum_partial_kernel(
    partial,  # [splits, COUT * 9 * CIN + COUT], float32
    grad_weight,  # [COUT, CIN, 3, 3], strides WN, WC, WY and WX
    grad_bias,  # [COUT]
    splits,
    CIN: tl.constexpr, COUT: tl.constexpr,
    WN: tl.constexpr, WC: tl.constexpr, WY: tl.constexpr, WX: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_S: tl.constexpr,
) -> None:  # fmt: skip
    """Adds up the partial sums of one layer."""
    _sum_block(
        tl.program_id(0), partial, grad_weight, grad_bias, splits,
        CIN, COUT, WN, WC, WY, WX, BLOCK, BLOCK_S,
    )  # fmt: skip


@triton.jit
def sum_two_partials_kernel(
    partial0, grad_weight0, grad_bias0, splits0,  # as in `sum_partial_kernel`
    partial1, grad_weight1, grad_bias1, splits1,
    programs0,  # programs of the first layer
    CIN0: tl.constexpr, COUT0: tl.constexpr,
    WN0: tl.constexpr, WC0: tl.constexpr, WY0: tl.constexpr, WX0: tl.constexpr,
    BLOCK0: tl.constexpr, BLOCK_S0: tl.constexpr,
    CIN1: tl.constexpr, COUT1: tl.constexpr,
    WN1: tl.constexpr, WC1: tl.constexpr, WY1: tl.constexpr, WX1: tl.constexpr,
    BLOCK1: tl.constexpr, BLOCK_S1: tl.constexpr,
) -> None:  # fmt: skip
    """The first programs add up the partial sums of one layer, the others those of another."""
    program = tl.program_id(0)
    if program < programs0:
        _sum_block(
            program, partial0, grad_weight0, grad_bias0, splits0,
            CIN0, COUT0, WN0, WC0, WY0, WX0, BLOCK0, BLOCK_S0,
        )  # fmt: skip
    else:
        _sum_block(
            program - programs0, partial1, grad_weight1, grad_bias1, splits1,
            CIN1, COUT1, WN1, WC1, WY1, WX1, BLOCK1, BLOCK_S1,
        )  # fmt: skip


def two_partials(
    first: Mapping[str, Any], second: Mapping[str, Any], programs: int
) -> dict[str, Any]:
    """Returns arguments of `sum_two_partials_kernel`, by name.

    Args:
        first: Arguments and constants of a launch of `sum_partial_kernel`, by name.
        second: Likewise, of another layer.
        programs: Number of programs of the first launch.
    """
    both = {f"{name}{k}": v for k, given in enumerate((first, second)) for name, v in given.items()}
    return {**both, "programs0": programs}
