"""The end of a training step in one program of Triton."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from mammoth_compiled.kernels.runtime.launch import launch
from mammoth_compiled.kernels.runtime.tiles import select_tile
from mammoth_compiled.kernels.step_end.op import MAX_COUNTERS

# The names of the parameters of the kernel.
_COUNTERS = [f"counter{k}" for k in range(MAX_COUNTERS)]
_AMOUNTS = [f"amount{k}" for k in range(MAX_COUNTERS)]


@triton.jit
def _advance(counter, amount):
    value = tl.load(counter, mask=amount != 0, other=0)
    tl.store(counter, value + amount, mask=amount != 0)


# One compiled kernel for any counters and amounts, so that a graph can be captured with others than
# the steps before it had.
@triton.jit(do_not_specialize=_AMOUNTS, do_not_specialize_on_alignment=[*_COUNTERS, "slot", "loss"])
def end_kernel(
    counter0, counter1, counter2, counter3, counter4, counter5, counter6, counter7,  # [1], int64
    amount0, amount1, amount2, amount3, amount4, amount5, amount6, amount7,
    loss,  # [1]
    losses,  # [NUM_LOSSES]
    slot,  # [1], int64
    NUM_LOSSES: tl.constexpr,
) -> None:  # fmt: skip
    """One program; a counter whose amount is 0 stays as it is."""
    _advance(counter0, amount0)
    _advance(counter1, amount1)
    _advance(counter2, amount2)
    _advance(counter3, amount3)
    _advance(counter4, amount4)
    _advance(counter5, amount5)
    _advance(counter6, amount6)
    _advance(counter7, amount7)
    at = tl.load(slot)
    tl.store(losses + at, tl.load(loss).to(losses.dtype.element_ty))
    tl.store(slot, (at + 1) % NUM_LOSSES)


def end(
    counters: Sequence[torch.Tensor],
    amounts: Sequence[int],
    loss: torch.Tensor,
    losses: torch.Tensor,
    slot: torch.Tensor,
) -> None:
    """Advances counters and appends a loss; see `op.end_step`.

    Args:
        counters: int64, one element each, at most MAX_COUNTERS.
        amounts: What to add to each.
        loss: One element.
        losses: [R].
        slot: int64, one element.
    """
    absent = MAX_COUNTERS - len(counters)
    launch(
        end_kernel,
        (1,),
        # Where there is no counter, one that is left as it is.
        *(*counters, *[slot] * absent, *amounts, *[0] * absent),
        *(loss, losses, slot),
        config=select_tile("step_end.end", losses.dtype, {"losses": len(losses)}, losses.device),
        NUM_LOSSES=len(losses),
    )
