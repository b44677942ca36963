"""The end of a training step: the operator and its implementations."""

from collections.abc import Sequence

import torch

from mammoth_compiled.kernels.runtime.device import triton_why_not
from mammoth_compiled.kernels.runtime.implementations import Implementation, usable
from mammoth_compiled.kernels.runtime.operators import traced_operator
from mammoth_compiled.kernels.step_end import reference

# Counters that one launch advances.
MAX_COUNTERS = 8


def end_step(
    counters: Sequence[torch.Tensor],
    amounts: Sequence[int],
    loss: torch.Tensor,
    losses: torch.Tensor,
    slot: torch.Tensor,
) -> None:
    """Advances counters and appends a loss to a ring; one launch on a GPU, no host sync.

    Args:
        counters: int64, one element each, on one device; no two share memory. Changed in place.
        amounts: What to add to each.
        loss: Loss of the step, one element.
        losses: Losses of the last R steps, [R]; the loss is written at `slot`.
        slot: int64, one element, 0 to R - 1; becomes the next one, 0 after R - 1.

    Raises:
        ValueError: If a tensor has the wrong dtype or size.

    Example:
        >>> import torch
        >>> seen, slot, losses = torch.tensor([5]), torch.tensor([1]), torch.zeros(2)
        >>> end_step([seen], [32], torch.tensor(0.5), losses, slot)
        >>> seen, losses, slot
        (tensor([37]), tensor([0.0000, 0.5000]), tensor([0]))
    """
    for counter in (*counters, slot):
        if counter.dtype != torch.int64 or counter.numel() != 1:
            raise ValueError(
                f"end_step: counters and slot must be int64 with one element, got {counter.dtype} "
                f"{list(counter.shape)}"
            )
    if loss.numel() != 1 or losses.dim() != 1 or len(counters) != len(amounts):
        raise ValueError(
            f"end_step: loss must have one element, losses one dimension and counters one amount "
            f"each; got {list(loss.shape)}, {list(losses.shape)}, and {len(amounts)} amounts for "
            f"{len(counters)} counters"
        )
    for counter, amount in zip(counters[MAX_COUNTERS:], amounts[MAX_COUNTERS:], strict=True):
        counter.add_(amount)
    end_step_op(
        list(counters[:MAX_COUNTERS]), list(amounts[:MAX_COUNTERS]), loss.detach(), losses, slot
    )


@traced_operator("end_step", mutates=("counters", "losses", "slot"))
def end_step_op(
    counters: Sequence[torch.Tensor],
    amounts: Sequence[int],
    loss: torch.Tensor,
    losses: torch.Tensor,
    slot: torch.Tensor,
) -> None:
    """Computes `end_step` for at most MAX_COUNTERS counters."""
    args = (counters, amounts, loss, losses, slot)
    (best, *_), _ = usable(IMPLEMENTATIONS, losses.device, *args)
    best.function(*args)


@end_step_op.register_fake
def _fake(*_: object) -> None:
    return None


def _triton(
    counters: Sequence[torch.Tensor],
    amounts: Sequence[int],
    loss: torch.Tensor,
    losses: torch.Tensor,
    slot: torch.Tensor,
) -> None:
    from mammoth_compiled.kernels.step_end import triton

    triton.end(counters, amounts, loss, losses, slot)


def _triton_why_not(
    counters: Sequence[torch.Tensor],
    amounts: Sequence[int],
    loss: torch.Tensor,
    losses: torch.Tensor,
    slot: torch.Tensor,
) -> str:
    return triton_why_not(losses, loss, slot, *counters, any_dtype=True)


# Each takes the arguments of `end_step_op`.
IMPLEMENTATIONS = (
    Implementation("triton", "one Triton kernel", _triton, "cuda", _triton_why_not),
    Implementation("reference", "torch", reference.end),
)
