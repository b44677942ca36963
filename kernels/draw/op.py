"""Random rows without replacement: the operator and its implementations."""

from typing import Any

import torch

from mammoth_compiled.kernels.draw import reference
from mammoth_compiled.kernels.runtime import philox
from mammoth_compiled.kernels.runtime.device import triton_why_not
from mammoth_compiled.kernels.runtime.implementations import Implementation, usable
from mammoth_compiled.kernels.runtime.operators import traced_operator

# The kernel computes square roots in float32.
MAX_ROWS = 2**24 - 1


def draw_rows(
    size: int,
    num_rows: int,
    state: torch.Tensor,
    *,
    mask: torch.Tensor | None = None,
    stream: int = 0,
) -> torch.Tensor:
    """Draws rows uniformly without replacement: one launch on a GPU, no sort and no host sync.

    Args:
        size: Rows to draw, M. If there are fewer, all are drawn, and the first of them again.
        num_rows: n: rows 0..n-1 are drawn from; the size of `mask` if there is one.
        state: State of the generator, `philox.random_state`; advanced in place.
        mask: Marks the rows to draw from, bool, [n], at least one; None draws from all.
        stream: Distinguishes the draws of one step, 0 to 65535.

    Returns:
        int64, [M].

    Raises:
        ValueError: If `size` or `num_rows` is out of range, or the mask does not fit.
    """
    if size < 1 or not 1 <= num_rows <= MAX_ROWS:
        raise ValueError(
            f"draw_rows: size must be at least 1 and num_rows 1 to {MAX_ROWS}, got {size} and "
            f"{num_rows}"
        )
    if mask is not None and (mask.dtype != torch.bool or mask.shape != (num_rows,)):
        raise ValueError(
            f"draw_rows: mask must be bool [{num_rows}], got {mask.dtype} {list(mask.shape)}"
        )
    rows: torch.Tensor = draw_rows_op(size, num_rows, mask, state, stream)
    return rows


@traced_operator("draw_rows", mutates=("state",))
def draw_rows_op(
    size: int, num_rows: int, mask: torch.Tensor | None, state: torch.Tensor, stream: int
) -> torch.Tensor:
    """Computes `draw_rows`."""
    args = (size, num_rows, mask, state, stream)
    (best, *_), _ = usable(IMPLEMENTATIONS, state.device, *args)
    rows: torch.Tensor = best.function(*args)
    return rows


@draw_rows_op.register_fake
def _fake(size: int, num_rows: int, mask: Any, state: Any, stream: int) -> torch.Tensor:
    result: torch.Tensor = state.new_empty((size,))
    return result


def _triton(
    size: int, num_rows: int, mask: torch.Tensor | None, state: torch.Tensor, stream: int
) -> torch.Tensor:
    from mammoth_compiled.kernels.draw import triton

    return triton.draw(size, num_rows, mask, state, stream)


def _reference(
    size: int, num_rows: int, mask: torch.Tensor | None, state: torch.Tensor, stream: int
) -> torch.Tensor:
    rows = reference.drawn(size, num_rows, mask, state, stream)
    philox.advance(state)
    return rows


def _triton_why_not(size: int, num_rows: int, mask: Any, state: torch.Tensor, *_: Any) -> str:
    return triton_why_not(state, any_dtype=True)


# Each takes the arguments of `draw_rows_op`.
IMPLEMENTATIONS = (
    Implementation("triton", "one Triton kernel", _triton, "cuda", _triton_why_not),
    Implementation("reference", "torch", _reference),
)
