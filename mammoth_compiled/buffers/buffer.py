"""Buffer: the replay memory of a continual-learning model."""

from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
import torch

from mammoth_compiled.buffers.policies import State, find_policy
from mammoth_compiled.buffers.rows import ATTRIBUTES, check_labels, to_rows
from mammoth_compiled.buffers.slots import FilledSlots
from mammoth_compiled.buffers.store import RowStore
from mammoth_compiled.data.transforms import apply_transform
from mammoth_compiled.distributed import gathered, num_ranks, part
from mammoth_compiled.errors import ConfigError


class Buffer(RowStore):
    """A replay memory, filled by reservoir sampling unless another policy is given.

    The first `add_data` allocates the tensors, which are then available as attributes:
    `examples` (float32, or uint8 if given as bytes), `labels`, `task_labels` and `true_labels`
    (int64), and `logits` (float32). Each has `buffer_size` rows, `len(buffer)` of which are filled:
    the first ones, unless the policy is "ring".

    Args:
        buffer_size: Capacity in samples, N.
        device: Device of the tensors.
        policy: Name of the buffer policy, which decides which samples are kept: "reservoir",
            "class-balanced", "ring" or "herding"; see `mammoth_compiled.buffers.policies`.
        num_classes: Number of classes of the stream, K; not needed for "reservoir".

    Attributes:
        num_seen_examples: Samples that the stream has offered so far.
        policy: Name of the buffer policy.
        needs_labels: Whether the policy needs labels with every sample.
        selects_after_task: Whether the policy ignores the stream and selects in `end_task`.
        changes_between_tasks: Whether no training step adds samples; `selects_after_task` at first.
            A model that fills the buffer between tasks sets it, so that its steps can be captured.

    Raises:
        ConfigError: If `buffer_size` is not a positive integer, the policy is unknown, or it needs
            the number of classes or a larger buffer.

    Note:
        Differs from mammoth_lite: reads and writes are batched and draw from torch's generator;
        `get_data` applies a torchvision transform to the whole batch if it has a batched version.

    Example:
        >>> import torch
        >>> buffer = Buffer(buffer_size=2)
        >>> buffer.add_data(torch.zeros(2, 3, 8, 8), labels=torch.tensor([0, 1]))
        >>> examples, labels = buffer.get_data(2)
        >>> examples.shape, sorted(labels.tolist())
        (torch.Size([2, 3, 8, 8]), [0, 1])
    """

    def __init__(
        self,
        buffer_size: int,
        device: str | torch.device = "cpu",
        policy: str = "reservoir",
        num_classes: int | None = None,
    ) -> None:
        if not isinstance(buffer_size, (int, np.integer)) or buffer_size < 1:
            raise ConfigError(f"buffer_size must be an integer >= 1, got {buffer_size!r}")
        super().__init__(int(buffer_size), torch.device(device))
        self.policy = policy
        self.num_classes = num_classes or 0
        self._policy = find_policy(policy, self.buffer_size, num_classes)
        self.needs_labels = self._policy.needs_labels
        self.selects_after_task = self._policy.choose is None
        self.changes_between_tasks = self.selects_after_task
        self.reset()

    def _set_state(self, state: State, num_filled: int | None = None) -> None:
        self._state = state
        self._slots = FilledSlots(self.buffer_size, state.get("filled"), num_filled)

    def __len__(self) -> int:
        """Returns the number of filled rows."""
        return self._slots.count(self.num_seen_examples, limit=self.buffer_size)

    def is_empty(self) -> bool:
        """Returns whether no row is filled yet."""
        return self._slots.count(self.num_seen_examples, limit=1) == 0

    def is_full(self) -> bool:
        """Returns whether all rows are filled."""
        return len(self) == self.buffer_size

    @property
    def has_static_reads(self) -> bool:
        """Whether reads no longer depend on the number of filled rows.

        From then on every training step runs the same operations on the same memory, so that it
        can be captured as a CUDA graph.
        """
        is_full = self._slots.has_static_count(self.num_seen_examples)
        return self.changes_between_tasks or is_full

    def tensors(self) -> list[torch.Tensor]:
        """Returns all tensors of the buffer, including the state of its policy."""
        return [*(getattr(self, name) for name in self.used_attributes), *self._state.values()]

    def to(self, device: str | torch.device) -> Self:
        """Moves the buffer to a device and returns it."""
        self.device = torch.device(device)
        for name in self.used_attributes:
            setattr(self, name, getattr(self, name).to(self.device))
        self._state = {name: tensor.to(self.device) for name, tensor in self._state.items()}
        self._slots.mask = self._state.get("filled")
        return self

    def reset(self) -> None:
        """Removes all samples and starts the policy from its initial state."""
        self._clear_rows()
        self.num_seen_examples = 0
        state = self._policy.initial_state(self.buffer_size, self.num_classes, self.device)
        self._set_state(state, num_filled=0)

    @torch.no_grad()
    def add_data(
        self,
        examples: Any,
        labels: Any = None,
        logits: Any = None,
        task_labels: Any = None,
        true_labels: Any = None,
        sample_selection_scores: Any = None,
        **columns: Any,
    ) -> None:
        """Offers a batch of the stream; the policy decides which samples are kept.

        Args:
            examples: Images, tensor or array like the other arguments, [B, ...].
            labels: Class ids, [B].
            logits: Logits to replay, [B, K].
            task_labels: Task ids, [B].
            true_labels: Labels without noise, [B].
            sample_selection_scores: Accepted for compatibility; no policy uses scores.
            **columns: Values of the columns that `add_column` added, [B, ...].

        Raises:
            ValueError: If the number of rows differs, the attributes or their shapes are not those
                of the first `add_data`, or labels are missing that the policy needs.
            RuntimeError: If a label that the policy needs is not in 0 to K - 1.
        """
        values = (examples, labels, logits, task_labels, true_labels)
        rows = to_rows({**dict(zip(ATTRIBUTES, values, strict=True)), **columns})
        if num_ranks() > 1:
            rows = {name: gathered(value.to(self.device)) for name, value in rows.items()}
        if self._policy.choose is None:
            self.num_seen_examples += len(rows["examples"])
            return
        classes = torch.empty(0, dtype=torch.int64)
        if self.needs_labels:
            if "labels" not in rows:
                raise ValueError(f"add_data: the buffer policy {self.policy!r} needs labels")
            classes = rows["labels"].to(self.device, torch.int64)
            check_labels(classes, self.num_classes)
        stores, new = map(list, zip(*self._prepare(rows, self.is_empty()), strict=True))
        self._policy.write(self._state, stores, new, classes, self.num_seen_examples)
        self.num_seen_examples += len(new[0])
        self._slots.mark_outdated()

    @torch.no_grad()
    def end_task(
        self,
        features: torch.Tensor,
        labels: torch.Tensor,
        fetch: Callable[[torch.Tensor], Mapping[str, torch.Tensor]],
    ) -> None:
        """Selects among all samples of a finished task, for policies with `selects_after_task`.

        Args:
            features: Features of the samples, [n, F].
            labels: Their class ids, int64, [n].
            fetch: Called with the indices of the selected samples, int64, [R]; returns what to
                store of them: `examples` and other attributes by name, [R, ...].

        Raises:
            ValueError: If the policy samples from the stream, there are more classes than rows, or
                the attributes or their shapes are not those held.
        """
        if self._policy.end_task is None:
            raise ValueError(
                f"end_task: the buffer policy {self.policy!r} samples from the stream; only "
                "policies like 'herding' select after a task"
            )
        kept, selected, state = self._policy.end_task(
            self._state, features.to(self.device), labels.to(self.device), self.num_classes
        )
        rows = {name: value.detach() for name, value in fetch(selected).items()}
        for store, value in self._prepare(rows, self.is_empty()):
            filled = torch.cat((store[kept], value.to(store.dtype)))
            store.zero_()[: len(filled)] = filled
        self._set_state(state, len(kept) + len(selected))

    def get_data(
        self,
        size: int,
        transform: Any = None,
        return_index: bool = False,
        device: str | torch.device | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Draws filled rows uniformly without replacement.

        Args:
            size: Number of rows to draw, M; all filled rows if there are fewer.
            transform: torchvision transform of one example, with random parameters of its own for
                every row.
            return_index: True prepends the indices of the rows, int64, [M].
            device: Device of the result; None for the buffer's device.

        Returns:
            examples, [M, ...], and every other attribute that holds data, in the order of
            `attributes`. In a step of data-parallel training, the part of this rank.

        Raises:
            ValueError: If the buffer is empty or `size` is not positive.
        """
        if self.is_empty():
            raise ValueError("get_data: the buffer is empty; check is_empty() first")
        if size < 1:
            raise ValueError(f"get_data: size must be at least 1, got {size}")
        size = self._slots.count(self.num_seen_examples, limit=size)
        index = self._slots.sample(size, self.num_seen_examples, self.device)
        data = self.get_data_by_index(index, transform, device)
        if return_index:
            data = (index.to(data[0].device), *data)
        return tuple(map(part, data))

    def get_data_by_index(
        self, indexes: torch.Tensor, transform: Any = None, device: str | torch.device | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Returns the rows with the given indices, int64, [M]; see `get_data`."""
        if torch.compiler.is_compiling():
            # A graph would freeze how many rows are filled.
            raise RuntimeError("training_loss reads the buffer: read it in draw(batch)")
        target = self.device if device is None else torch.device(device)
        index = torch.as_tensor(indexes, device=self.device)
        examples, *others = (getattr(self, name)[index].to(target) for name in self.used_attributes)
        return apply_transform(examples, transform), *others

    def get_all_data(
        self, transform: Any = None, device: str | torch.device | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Returns all filled rows in order; see `get_data`."""
        index = self._slots.indices(self.num_seen_examples)
        return self.get_data_by_index(index, transform, device)

    def state_dict(self) -> dict[str, Any]:
        """Returns everything needed to resume exactly, with copies of the tensors on the CPU."""
        return {
            "buffer_size": self.buffer_size,
            "num_seen_examples": self.num_seen_examples,
            "data": {name: tensor.clone() for name, tensor in self.serialize().items()},
            "policy": self.policy,
            "policy_state": {name: tensor.cpu().clone() for name, tensor in self._state.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state returned by `state_dict`.

        Raises:
            ValueError: If the state belongs to a buffer of another size or policy.
        """
        if state["policy"] != self.policy:
            raise ValueError(
                f"the saved buffer uses the policy {state['policy']!r}, but this one uses "
                f"{self.policy!r}: use --buffer_policy {state['policy']}"
            )
        if state["buffer_size"] != self.buffer_size:
            raise ValueError(
                f"the saved buffer has {state['buffer_size']} rows, but this one has "
                f"{self.buffer_size}: use --buffer_size {state['buffer_size']}"
            )
        self.reset()
        self._load_rows(state["data"])
        self.num_seen_examples = state["num_seen_examples"]
        saved = {name: tensor.to(self.device) for name, tensor in state["policy_state"].items()}
        # A state saved on a CPU lacks the random state of the GPU kernel.
        self._set_state({**self._state, **saved})
