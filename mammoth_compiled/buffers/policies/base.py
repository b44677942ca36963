"""What a policy of a buffer is."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Policy:
    """Which rows of the stream a buffer keeps, as pure functions over tensors.

    All that a policy remembers is in its state. If that has `filled`, bool, [N], it says which of
    the buffer's N rows hold data; otherwise rows fill in the order of the stream. No function waits
    for the device, no shape depends on data, and once N items were seen nothing depends on their
    number but what the state holds: a captured step goes on choosing as it should.

    Attributes:
        initial: Makes the state of (capacity N, number of classes K, device).
        draw: Draws the random numbers for (batch size B, device).
        choose: Returns the row of each item of a batch, int64, [B], -1 for one that is not kept,
            and the new state. Takes the state, what `draw` returned, the labels, int64, [B] (empty
            unless `by_class`), the number of items seen before and N. None keeps nothing of the
            stream, but chooses when a task is over.
        update: Does all of it in place on a GPU whose kernels are supported: takes the state, the
            buffer's tensors and the rows to write into each. None where there is no such kernel.
        by_class: Whether it needs labels and the number of classes.
        row_per_class: Whether it needs a row for every class at least.
    """

    initial: Callable[[int, int, torch.device], State]
    draw: Callable[[int, torch.device], torch.Tensor]
    choose: (
        Callable[[State, torch.Tensor, torch.Tensor, int, int], tuple[torch.Tensor, State]] | None
    )
    update: Callable[[State, list[torch.Tensor], list[torch.Tensor]], None] | None = None
    by_class: bool = True
    row_per_class: bool = False


def draw_nothing(batch: int, device: torch.device) -> torch.Tensor:
    """Draws no random numbers: [B, 0]."""
    return torch.empty(batch, 0, device=device)


def place_in_class(labels: torch.Tensor) -> torch.Tensor:
    """Returns how many items of its class come before each item of a batch, int64, [B]."""
    return (labels[:, None] == labels).tril(-1).sum(1)
