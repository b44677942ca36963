"""Buffer: the replay memory of a continual-learning model."""

from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
import torch

from mammoth_compiled.buffers.policies import State, find_policy
from mammoth_compiled.buffers.rows import ATTRIBUTES, check_labels, complete_rows, to_rows
from mammoth_compiled.buffers.saved import SavedBuffer
from mammoth_compiled.buffers.selection import find_selection
from mammoth_compiled.buffers.slots import DRAWS, FilledSlots, draw_state
from mammoth_compiled.distributed import gathered, num_ranks
from mammoth_compiled.errors import ConfigError

# Rows that an unlimited buffer starts with, and its capacity as Mammoth gives it.
FIRST_ROWS = 64
UNLIMITED = 10**9


class Buffer(SavedBuffer):
    """A replay memory, filled by reservoir sampling unless another policy is given.

    The first `add_data` allocates the tensors, which are then available as attributes:
    `examples` (float32, or uint8 if given as bytes), `labels`, `task_labels` and `true_labels`
    (int64), and `logits` (float32). Each has `num_rows` rows, `len(buffer)` of which are filled:
    the first ones, unless the policy is "ring".

    Args:
        buffer_size: Capacity in samples, N; ignored if unlimited.
        device: Device of the tensors.
        policy: Name of the buffer policy, which decides which samples are kept: "reservoir",
            "class-balanced", "loss-aware", "loss-aware-balanced", "ring" or "herding"; see
            `mammoth_compiled.buffers.policies`.
        num_classes: Number of classes of the stream, K; not needed for "reservoir".
        sample_selection_strategy: One of Mammoth's rules in place of a policy: "reservoir",
            "unlimited" (keeps every sample), or "balancoir", "lars", "labrs" and "abs", which
            choose sample by sample on the host; see `mammoth_compiled.buffers.selection`.
        dataset: The dataset, which "abs" needs to tell past classes from current ones.
        lenient: True ignores surplus rows of labels and other attributes, as Mammoth does, and
            stores zeros for attributes that are missing; False rejects both.

    Attributes:
        num_seen_examples: Samples that the stream has offered so far.
        sample_selection_fn: Chooses the rows to replace; None without a strategy that does.
        needs_labels: Whether the policy needs labels with every sample.
        needs_losses: Whether the policy needs losses with every sample.
        selects_after_task: Whether the policy ignores the stream and selects in `end_task`.
        changes_between_tasks: Whether no training step adds samples; `selects_after_task` at first.
            A model that fills the buffer between tasks sets it, so that its steps can be captured.

    Raises:
        ConfigError: If an argument is invalid, a policy and a strategy are given, or the policy
            needs the number of classes or a larger buffer.

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
        *,
        sample_selection_strategy: str | None = None,
        dataset: Any = None,
        lenient: bool = False,
    ) -> None:
        strategy = (sample_selection_strategy or "reservoir").lower()
        self.is_unlimited = strategy == "unlimited"
        if self.is_unlimited:
            buffer_size = FIRST_ROWS
        if not isinstance(buffer_size, (int, np.integer)) or buffer_size < 1:
            raise ConfigError(f"buffer_size must be an integer >= 1, got {buffer_size!r}")
        if sample_selection_strategy is not None and policy != "reservoir":
            raise ConfigError(
                f"Buffer: the policy {policy!r} and the sample_selection_strategy "
                f"{sample_selection_strategy!r} exclude each other: give one of them"
            )
        super().__init__(int(buffer_size), torch.device(device))
        self.policy = policy
        self.num_classes = num_classes or 0
        self.lenient = lenient
        self._policy = find_policy(policy, self.num_rows, num_classes)
        self.sample_selection_strategy = strategy
        self.sample_selection_fn = find_selection(strategy, self, dataset)
        self.needs_labels = self._policy.needs_labels
        self.needs_losses = self._policy.needs_losses
        self.selects_after_task = self._policy.choose is None
        self.changes_between_tasks = self.selects_after_task
        self._is_resized = False
        self.reset()

    def _set_state(self, state: State, num_filled: int | None = None) -> None:
        # Policies know nothing of the generator of the reads, on a GPU.
        draws = {name: value for name, value in self._state.items() if name == DRAWS}
        self._state = {**draws, **state}
        filled = state.get("filled")
        self._slots = FilledSlots(self.num_rows, filled, num_filled, self._state.get(DRAWS))

    @property
    def buffer_size(self) -> int:
        """The capacity in samples; a new value keeps the first samples, see `resize`."""
        return UNLIMITED if self.is_unlimited else self.num_rows

    @buffer_size.setter
    def buffer_size(self, size: int) -> None:
        if not self.is_unlimited:
            self.resize(size)

    def resize(self, size: int) -> None:
        """Changes the capacity and keeps the first samples, at most `size`.

        Raises:
            ConfigError: If the policy is not "reservoir": only its samples are in order.
        """
        if size == self.num_rows:
            return
        if self.policy != "reservoir":
            raise ConfigError(f"a buffer with the policy {self.policy!r} cannot be resized")
        kept = {name: getattr(self, name)[: min(len(self), size)] for name in self.used_attributes}
        self.num_rows, self._is_resized = int(size), True
        self.num_seen_examples = min(self.num_seen_examples, self.num_rows)
        for name, rows in kept.items():
            tensor = rows.new_zeros((self.num_rows, *rows.shape[1:]))
            tensor[: len(rows)] = rows
            setattr(self, name, tensor)
        if self.sample_selection_fn is not None:
            self.sample_selection_fn.resize(self.num_rows)
        self._state["seen"].fill_(self.num_seen_examples)
        self._set_state(self._state, num_filled=self.num_seen_examples)

    def tensors(self) -> list[torch.Tensor]:
        """Returns all tensors of the buffer, including the state of its policy."""
        return [*(getattr(self, name) for name in self.used_attributes), *self._state.values()]

    def to(self, device: str | torch.device) -> Self:
        """Moves the buffer to a device and returns it."""
        self.device = torch.device(device)
        for name in self.used_attributes:
            setattr(self, name, getattr(self, name).to(self.device))
        self._state = {name: tensor.to(self.device) for name, tensor in self._state.items()}
        self._slots.mask, self._slots.random = (self._state.get(n) for n in ("filled", DRAWS))
        return self

    def reset(self) -> None:
        """Removes all samples and starts the policy from its initial state."""
        self._clear_rows()
        self.num_seen_examples = 0
        if self.sample_selection_fn is not None:
            self.sample_selection_fn.resize(self.num_rows)
        state = self._policy.initial_state(self.num_rows, self.num_classes, self.device)
        self._state = draw_state(self.device)
        self._set_state(state, num_filled=0)

    def empty(self) -> None:
        """The same as `reset`, by Mammoth's name."""
        self.reset()

    @torch.no_grad()
    def add_data(
        self,
        examples: Any,
        labels: Any = None,
        logits: Any = None,
        task_labels: Any = None,
        true_labels: Any = None,
        sample_selection_scores: Any = None,
        losses: Any = None,
        **columns: Any,
    ) -> None:
        """Offers a batch of the stream; the policy decides which samples are kept.

        Args:
            examples: Images, tensor or array like the other arguments, [B, ...].
            labels: Class ids, [B].
            logits: Logits to replay, [B, K].
            task_labels: Task ids, [B].
            true_labels: Labels without noise, [B].
            sample_selection_scores: Scores of the samples, [B], for the strategies "lars",
                "labrs" and "abs"; see `mammoth_compiled.buffers.selection`.
            losses: Losses of the samples, [B], for a policy that needs them.
            **columns: Values of the columns that `add_column` added, [B, ...].

        Raises:
            ValueError: If the number of rows differs, the attributes or their shapes are not those
                of the first `add_data`, or labels or losses are missing that the policy needs.
            RuntimeError: If a label that the policy needs is not in 0 to K - 1.
        """
        values = (examples, labels, logits, task_labels, true_labels)
        rows = to_rows({**dict(zip(ATTRIBUTES, values, strict=True)), **columns})
        if self.lenient:
            held = {} if self.is_empty() else {n: getattr(self, n) for n in self.used_attributes}
            rows = complete_rows(rows, held)
            if not len(rows["examples"]):
                return
        if self.needs_losses:
            if losses is None or len(losses) != len(rows["examples"]):
                raise ValueError(f"add_data: the buffer policy {self.policy!r} needs losses, [B]")
            losses = torch.as_tensor(losses, device=self.device).detach()
        if num_ranks() > 1:
            rows = {name: gathered(value.to(self.device)) for name, value in rows.items()}
            losses = gathered(losses) if self.needs_losses else None
        if self._policy.choose is None:
            self.num_seen_examples += len(rows["examples"])
            return
        classes = torch.empty(0, dtype=torch.int64)
        if self.needs_labels:
            if "labels" not in rows:
                raise ValueError(f"add_data: the buffer policy {self.policy!r} needs labels")
            classes = rows["labels"].to(self.device, torch.int64)
            check_labels(classes, self.num_classes)
        while self.is_unlimited and self.num_seen_examples + len(rows["examples"]) > self.num_rows:
            self.resize(2 * self.num_rows)
        stores, new = map(list, zip(*self._prepare(rows, self.is_empty()), strict=True))
        if self.sample_selection_fn is None:
            self._policy.write(self._state, stores, new, classes, self.num_seen_examples, losses)
        else:
            self.sample_selection_fn.write(
                stores, new, rows.get("labels"), sample_selection_scores, self.num_seen_examples
            )
        self.num_seen_examples += len(new[0])
        self._slots.mark_outdated()

    @torch.no_grad()
    def update_losses(self, indexes: torch.Tensor, losses: torch.Tensor) -> None:
        """Sets the losses that a policy with `needs_losses` compares.

        Args:
            indexes: Rows of the buffer, int64, [M].
            losses: Their losses, [M].
        """
        if num_ranks() > 1:
            indexes, losses = gathered(indexes), gathered(losses)
        held = self._state["losses"]
        held.index_copy_(0, indexes.to(held.device), losses.detach().to(held))

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
