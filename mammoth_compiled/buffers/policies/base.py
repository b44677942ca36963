"""BufferPolicy: the interface of a sampling rule that fills a replay buffer.

Shape letters: B batch, F features, K classes, N slots of the buffer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from mammoth_compiled.kernels.reservoir import slot_owners, write_slots

State = dict[str, torch.Tensor]


class TaskSelection(Protocol):
    """Selects samples once a task is over; see `BufferPolicy.end_task`."""

    def __call__(
        self, state: State, features: torch.Tensor, labels: torch.Tensor, num_classes: int
    ) -> tuple[torch.Tensor, torch.Tensor, State]:
        """Returns the slots to keep, the indices of the samples to add, and the new state."""


@dataclass(frozen=True)
class BufferPolicy:
    """A rule that decides which samples of the stream a buffer keeps, as functions over tensors.

    A module of `mammoth_compiled.buffers.policies` defines its policy as `POLICY`.

    Everything a policy remembers is a tensor in its state. If the state has an entry `filled`,
    bool, [N], it marks the slots that hold data; otherwise slots fill in the order of the stream.
    The functions cause no host sync and their shapes do not depend on data. Once N samples have
    been seen, nothing but the state may depend on how many there were, so that a captured training
    step keeps sampling correctly.

    Attributes:
        name: Value of `--buffer_policy` that selects this policy.
        initial_state: Called with (N, K, device), returns the state of an empty buffer.
        draw: Called with (B, device), returns the random numbers that `choose` consumes, [B, ...].
        choose: Called with the state, the result of `draw`, the labels, int64, [B] (empty unless
            `needs_labels`), the number of samples seen before this batch, N and, if it
            `needs_losses`, the losses, [B]. Returns the slot of each sample, int64, [B], -1 for a
            sample that is dropped, and the new state. None for a policy that ignores the stream
            and selects in `end_task`.
        update: Does the work of `draw` and `choose`, and the writing, in place with one kernel on
            a supported GPU. Called with the state, the buffer's tensors and the rows to write into
            each. None if there is no such kernel.
        end_task: Selects among all samples of a finished task. Called with the state, their
            features, [n, F], their labels, int64, [n], and K. Returns the slots to keep, in order,
            the indices of the samples to store behind them, and the new state. None for a policy
            that samples from the stream.
        needs_labels: Whether every sample needs a label, and the buffer the number of classes.
        needs_slot_per_class: Whether N must be at least K.
        needs_losses: Whether every sample needs a loss. The state then has an entry `losses`, [N],
            in which losses of replayed rows are updated.
    """

    name: str
    initial_state: Callable[[int, int, torch.device], State]
    draw: Callable[[int, torch.device], torch.Tensor]
    choose: Callable[..., tuple[torch.Tensor, State]] | None = None
    update: Callable[[State, list[torch.Tensor], list[torch.Tensor]], None] | None = None
    end_task: TaskSelection | None = None
    needs_labels: bool = True
    needs_slot_per_class: bool = False
    needs_losses: bool = False

    def write(
        self,
        state: State,
        stores: list[torch.Tensor],
        rows: list[torch.Tensor],
        labels: torch.Tensor,
        num_seen: int,
        losses: torch.Tensor | None = None,
    ) -> None:
        """Chooses slots for a batch and writes the rows that are kept, all in place.

        Args:
            state: State of the policy.
            stores: Tensors of the buffer, each [N, ...].
            rows: New rows for each of them, [B, ...].
            labels: Class ids, int64, [B]; empty unless `needs_labels`.
            num_seen: Samples seen before this batch.
            losses: Losses, [B], if it `needs_losses`.
        """
        if self.update is not None and "random" in state:
            self.update(state, stores, rows)
            return
        assert self.choose is not None
        batch_size, capacity = len(rows[0]), len(stores[0])
        draws = self.draw(batch_size, stores[0].device)
        scores = (losses,) if self.needs_losses else ()
        slots, new_state = self.choose(state, draws, labels, num_seen, capacity, *scores)
        owners = slot_owners(slots, capacity)
        for store, value in zip(stores, rows, strict=True):
            write_slots(store, value, slots, owners)
        for name, tensor in new_state.items():
            # In place, because a captured step reads this memory.
            state[name].copy_(tensor)


def draw_nothing(batch_size: int, device: torch.device) -> torch.Tensor:
    """Returns no random numbers, [B, 0], for a deterministic policy."""
    return torch.empty(batch_size, 0, device=device)


def position_in_class(labels: torch.Tensor) -> torch.Tensor:
    """Counts, for each sample of a batch, the earlier samples of its class.

    Args:
        labels: Class ids, int64, [B].

    Returns:
        int64, [B].

    Example:
        >>> import torch
        >>> position_in_class(torch.tensor([3, 5, 3, 3]))
        tensor([0, 0, 1, 2])
    """
    return (labels[:, None] == labels).tril(-1).sum(1)
