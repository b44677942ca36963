"""RingBuffer: a replay memory with one ring of rows per task."""

from typing import Any

import torch

from mammoth_compiled.buffers.rows import ATTRIBUTES, to_rows
from mammoth_compiled.buffers.store import RowStore
from mammoth_compiled.data.transforms import apply_transform

__all__ = ["RingBuffer"]


class RingBuffer(RowStore):
    """A replay memory with one ring of rows per task, whose oldest rows are overwritten.

    The model sets `task_number` and `num_seen_examples = 0` when a task begins.

    Args:
        buffer_size: Capacity in samples, N.
        n_tasks: Number of tasks, T; each has N // T rows.
        device: Device of the tensors.

    Attributes:
        task_number: The task whose ring `add_data` fills.
        num_seen_examples: Samples that the ring of the current task has been offered.
        buffer_portion_size: Rows per task.
    """

    def __init__(
        self, buffer_size: int, n_tasks: int = 1, device: str | torch.device = "cpu"
    ) -> None:
        super().__init__(buffer_size, torch.device(device))
        self.buffer_portion_size = buffer_size // n_tasks
        self.task_number = 0
        self.num_seen_examples = 0
        self._filled = torch.zeros(buffer_size, dtype=torch.bool, device=self.device)

    def __len__(self) -> int:
        """Returns the number of filled rows."""
        return int(self._filled.sum())

    def is_empty(self) -> bool:
        """Returns whether no sample was offered yet."""
        return self.num_seen_examples == self.task_number == 0

    @torch.no_grad()
    def add_data(
        self, examples: Any, labels: Any = None, logits: Any = None, task_labels: Any = None
    ) -> None:
        """Stores a batch, [B, ...] each, in the ring of the current task."""
        values = (examples, labels, logits, task_labels, None)
        rows = to_rows(dict(zip(ATTRIBUTES, values, strict=True)))
        count, size = len(rows["examples"]), self.buffer_portion_size
        first = max(count - size, 0)  # earlier rows would be overwritten
        positions = torch.arange(first, count, device=self.device) + self.num_seen_examples
        slots = positions % size + self.task_number * size
        for store, value in self._prepare(rows, not self._filled.any()):
            store[slots] = value[first:].to(store.dtype)
        self._filled[slots] = True
        self.num_seen_examples += count

    def get_data(
        self, size: int, transform: Any = None, device: str | torch.device | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Draws filled rows uniformly without replacement; see `mammoth_compiled.Buffer`."""
        index = self._filled.nonzero()[:, 0]
        return self._read(index[torch.randperm(len(index))[:size]], transform, device)

    def get_all_data(
        self, transform: Any = None, device: str | torch.device | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Returns all filled rows."""
        return self._read(self._filled.nonzero()[:, 0], transform, device)

    def _read(
        self, index: torch.Tensor, transform: Any, device: str | torch.device | None
    ) -> tuple[torch.Tensor, ...]:
        target = device or self.device
        examples, *others = (getattr(self, name)[index].to(target) for name in self.used_attributes)
        return apply_transform(examples, transform), *others

    def empty(self) -> None:
        """Removes all samples."""
        self._clear_rows()
        self._filled.zero_()
        self.num_seen_examples = 0

    def state_dict(self) -> dict[str, Any]:
        """Returns everything needed to resume exactly."""
        return {
            "data": {name: tensor.clone() for name, tensor in self.serialize().items()},
            "filled": self._filled.cpu().clone(),
            "task_number": self.task_number,
            "seen": self.num_seen_examples,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._load_rows(state["data"])
        self._filled = state["filled"].to(self.device)
        self.task_number, self.num_seen_examples = state["task_number"], state["seen"]
