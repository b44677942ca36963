"""The replay memory."""

from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
import torch

from mammoth_compiled.buffers.policies import State, find_policy, herding
from mammoth_compiled.data.transforms import CannotBatchError, batch_transform
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.kernels.reservoir import slot_owners, write_slots

# The order is the order in which `get_data` returns them.
ATTRIBUTES = ("examples", "labels", "logits", "task_labels", "true_labels")


class Buffer:
    """A replay memory, filled by reservoir sampling unless another policy is named.

    Tensors appear as attributes with the first `add_data`, each of `buffer_size` rows of which
    `len(buffer)` are filled, the first ones unless the policy is "ring": `examples` as given
    (float32 unless given as bytes), `labels`, `task_labels` and `true_labels` int64, `logits`
    float32.

    Args:
        buffer_size: Capacity in samples.
        device: Where the samples are kept.
        policy: Which examples are kept: "reservoir", "class-balanced", "ring" or "herding"; see
            `mammoth_compiled.buffers.policies`.
        num_classes: Number of classes of the stream; the reservoir does without.

    Attributes:
        num_seen_examples: How many examples the stream has offered so far.
        policy: Name of the policy.
        by_class: Whether the policy needs labels with every example.

    Raises:
        ConfigError: If `buffer_size` is not a positive integer, or the policy is unknown or lacks
            classes or rows.

    Note:
        Differs from mammoth_lite: writing and reading are batched and draw from torch's generator;
        `get_data` applies a torchvision transform to the whole batch where it can be turned.
    """

    examples: torch.Tensor
    labels: torch.Tensor
    logits: torch.Tensor
    task_labels: torch.Tensor
    true_labels: torch.Tensor

    def __init__(
        self,
        buffer_size: int,
        device: str | torch.device = "cpu",
        policy: str = "reservoir",
        num_classes: int | None = None,
    ) -> None:
        if not isinstance(buffer_size, (int, np.integer)) or buffer_size < 1:
            raise ConfigError(f"buffer_size must be an integer >= 1, got {buffer_size!r}")
        self.buffer_size = int(buffer_size)
        self.device = torch.device(device)
        self.attributes = list(ATTRIBUTES)
        self.policy = policy
        self.num_classes = num_classes or 0
        self._policy = find_policy(policy, self.buffer_size, num_classes)
        self.by_class = self._policy.by_class
        self._start()

    def _start(self) -> None:
        self.num_seen_examples = 0
        self._set_state(
            self._policy.initial(self.buffer_size, self.num_classes, self.device), num_filled=0
        )

    def _set_state(self, state: State, num_filled: int | None = None) -> None:
        self._state = state
        # Rows known to be filled: how many a policy has filled is first known to the device alone.
        self._num_filled = num_filled or 0
        self._count_is_old = num_filled is None
        self._most_wanted = 0

    def __len__(self) -> int:
        """Returns the number of filled rows."""
        return self._filled(self.buffer_size)

    def _filled(self, wanted: int) -> int:
        """Returns min(wanted, filled rows), waiting for the device only if it is in doubt."""
        if "filled" not in self._state:
            return min(wanted, self.num_seen_examples, self.buffer_size)
        self._most_wanted = max(self._most_wanted, wanted)
        if self._count_is_old and self._num_filled < wanted:
            self._num_filled, self._count_is_old = int(self._state["filled"].sum()), False
        return min(wanted, self._num_filled)

    def is_empty(self) -> bool:
        """Returns whether no row is filled yet."""
        return self._filled(1) == 0

    def is_full(self) -> bool:
        """Returns whether all rows are filled."""
        return len(self) == self.buffer_size

    @property
    def has_static_reads(self) -> bool:
        """Whether reads no longer depend on the number of filled rows.

        From then on every training step runs the same operations on the same memory, so that it
        can be captured as a CUDA graph.
        """
        if self._policy.choose is None:
            return True  # filled between tasks only
        if "filled" in self._state:
            return self._num_filled >= self._most_wanted
        return self.num_seen_examples >= self.buffer_size

    @property
    def used_attributes(self) -> list[str]:
        """The attributes that hold data."""
        return [name for name in self.attributes if hasattr(self, name)]

    def tensors(self) -> list[torch.Tensor]:
        """Returns all it holds, the state of its policy too."""
        return [*(getattr(self, name) for name in self.used_attributes), *self._state.values()]

    def to(self, device: str | torch.device) -> Self:
        """Moves the samples to a device."""
        self.device = torch.device(device)
        for name in self.used_attributes:
            setattr(self, name, getattr(self, name).to(self.device))
        self._state = {name: tensor.to(self.device) for name, tensor in self._state.items()}
        return self

    def reset(self) -> None:
        """Forgets everything."""
        for name in self.used_attributes:
            delattr(self, name)
        self._start()

    @torch.no_grad()
    def add_data(
        self,
        examples: Any,
        labels: Any = None,
        logits: Any = None,
        task_labels: Any = None,
        true_labels: Any = None,
        sample_selection_scores: Any = None,
    ) -> None:
        """Offers a batch of the stream.

        Args:
            examples: Images, [B, ...]; tensor or array, as are the others.
            labels: Class ids, [B].
            logits: Network outputs to replay, [B, K].
            task_labels: Task ids, [B].
            true_labels: Labels without noise, [B].
            sample_selection_scores: Taken for compatibility; no policy uses scores.

        Raises:
            ValueError: If the number of rows differs, the attributes given are not those of the
                first `add_data`, or the policy goes by classes and there are no labels.
            RuntimeError: If the policy goes by classes and a label is none of them.
        """
        given = dict(
            zip(ATTRIBUTES, (examples, labels, logits, task_labels, true_labels), strict=True)
        )
        rows = {name: torch.as_tensor(v).detach() for name, v in given.items() if v is not None}
        if self._policy.choose is None:
            self.num_seen_examples += len(rows["examples"])
            return
        classes = self._classes(rows) if self.by_class else torch.empty(0, dtype=torch.int64)
        self._accept(rows)
        stores = [getattr(self, name) for name in rows]
        values = [value.to(self.device) for value in rows.values()]
        batch = len(values[0])
        if self._policy.update is not None and "random" in self._state:
            self._policy.update(self._state, stores, values)
        else:
            draws = self._policy.draw(batch, self.device)
            slots, state = self._policy.choose(
                self._state, draws, classes, self.num_seen_examples, self.buffer_size
            )
            owner = slot_owners(slots, self.buffer_size)
            for store, value in zip(stores, values, strict=True):
                write_slots(store, value, slots, owner)
            for name, tensor in state.items():
                # In place, where a captured step looks for it.
                self._state[name].copy_(tensor)
        self.num_seen_examples += batch
        self._count_is_old = True

    def _classes(self, rows: dict[str, torch.Tensor]) -> torch.Tensor:
        if "labels" not in rows:
            raise ValueError(f"add_data: the policy {self.policy!r} goes by classes: give labels")
        labels = rows["labels"].to(self.device, torch.int64)
        known = (labels >= 0) & (labels < self.num_classes)
        torch._assert_async(known.all(), f"add_data: labels must be 0 to {self.num_classes} - 1")
        return labels

    @torch.no_grad()
    def end_task(
        self,
        features: torch.Tensor,
        labels: torch.Tensor,
        fetch: Callable[[torch.Tensor], Mapping[str, torch.Tensor]],
    ) -> None:
        """Chooses by herding among all examples of a task that is over.

        Args:
            features: The backbone's features of the examples, [n, F].
            labels: Their class ids, int64, [n].
            fetch: Returns what to keep of the examples with the given numbers, int64, [R]:
                `examples` and other attributes by name, [R, ...].

        Raises:
            ValueError: If the policy is not "herding", there are more classes than rows, or the
                attributes are not those held.
        """
        if self.policy != "herding":
            raise ValueError(f"end_task: the policy is {self.policy!r}, not 'herding'")
        kept, chosen, state = herding.end_task(
            self._state, features.to(self.device), labels.to(self.device), self.num_classes
        )
        rows = {name: value.detach() for name, value in fetch(chosen).items()}
        self._accept(rows)
        for name, value in rows.items():
            store = getattr(self, name)
            held = torch.cat((store[kept], value.to(self.device, store.dtype)))
            store.zero_()[: len(held)] = held
        self._set_state(state, len(kept) + len(chosen))

    def _accept(self, rows: dict[str, torch.Tensor]) -> None:
        """Checks that rows fit each other and the tensors held, and makes those on first use."""
        batch = len(rows["examples"])
        for name, value in rows.items():
            if len(value) != batch:
                raise ValueError(f"add_data: {batch} examples but {len(value)} {name}")
        missing = [] if self.is_empty() else [n for n in self.used_attributes if n not in rows]
        if missing:
            raise ValueError(
                f"add_data: {', '.join(missing)} not given, but the buffer holds them. "
                "Call reset() to start anew"
            )
        for name, value in rows.items():
            store = getattr(self, name, None)
            if store is not None and store.shape[1:] == value.shape[1:]:
                continue
            if not self.is_empty():
                held = "no such data" if store is None else f"rows of shape {list(store.shape[1:])}"
                raise ValueError(
                    f"add_data: {name} have rows of shape {list(value.shape[1:])}, but the buffer "
                    f"holds {held}. Call reset() to start anew"
                )
            if name.endswith("els"):
                dtype = torch.int64
            else:
                dtype = value.dtype if value.dtype == torch.uint8 else torch.float32
            shape = (self.buffer_size, *value.shape[1:])
            setattr(self, name, torch.zeros(shape, dtype=dtype, device=self.device))

    def get_data(
        self,
        size: int,
        transform: Any = None,
        return_index: bool = False,
        device: str | torch.device | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Draws rows without replacement.

        Args:
            size: Rows wanted, M; fewer come while the buffer holds fewer.
            transform: torchvision transform for the examples, drawn anew for every row.
            return_index: True puts the row numbers, int64, [M], in front.
            device: Where the result is wanted; None leaves it on the buffer's device.

        Returns:
            examples [M, ...] and every attribute that holds data, in the order of `attributes`.

        Raises:
            ValueError: If the buffer is empty or `size` is not positive.
        """
        if self.is_empty():
            raise ValueError("get_data: the buffer is empty; ask is_empty() first")
        if size < 1:
            raise ValueError(f"get_data: size must be at least 1, got {size}")
        index = self._draw(self._filled(size))
        data = self.get_data_by_index(index, transform, device)
        return (index.to(data[0].device), *data) if return_index else data

    def _draw(self, size: int) -> torch.Tensor:
        filled = self._state.get("filled")
        if filled is None and self.device.type == "cpu":
            return torch.randperm(len(self))[:size]
        # The rows with the largest of random numbers, those not filled last.
        key = torch.rand(len(self) if filled is None else self.buffer_size, device=self.device)
        if filled is not None:
            key.masked_fill_(~filled, -1)
        return key.topk(size).indices

    def get_data_by_index(
        self, indexes: torch.Tensor, transform: Any = None, device: str | torch.device | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Returns the rows with the given numbers; see `get_data`."""
        target = self.device if device is None else torch.device(device)
        index = torch.as_tensor(indexes, device=self.device)
        examples, *others = (getattr(self, name)[index].to(target) for name in self.used_attributes)
        return apply_transform(examples, transform), *others

    def get_all_data(
        self, transform: Any = None, device: str | torch.device | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Returns all filled rows; see `get_data`."""
        filled = self._state.get("filled")
        index = torch.arange(len(self)) if filled is None else filled.nonzero()[:, 0]
        return self.get_data_by_index(index, transform, device)

    def serialize(self, out_device: str | torch.device = "cpu") -> dict[str, torch.Tensor]:
        """Returns the attributes that hold data, on a device."""
        return {name: getattr(self, name).to(out_device) for name in self.used_attributes}

    def state_dict(self) -> dict[str, Any]:
        """Returns all that is needed to go on as if never stopped, tensors on the CPU."""
        return {
            "buffer_size": self.buffer_size,
            "num_seen_examples": self.num_seen_examples,
            "data": {name: tensor.clone() for name, tensor in self.serialize().items()},
            "policy": self.policy,
            "policy_state": {name: tensor.cpu().clone() for name, tensor in self._state.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts back what `state_dict` returned.

        Raises:
            ValueError: If it comes from a buffer of another size or policy.
        """
        policy = state.get("policy", "reservoir")
        if policy != self.policy:
            raise ValueError(
                f"the saved buffer was filled by the policy {policy!r}, this one by "
                f"{self.policy!r}: use --buffer_policy {policy}"
            )
        if state["buffer_size"] != self.buffer_size:
            raise ValueError(
                f"the saved buffer has {state['buffer_size']} rows, this one {self.buffer_size}: "
                f"use --buffer_size {state['buffer_size']}"
            )
        self.reset()
        for name, tensor in state["data"].items():
            setattr(self, name, tensor.to(self.device))
        self.num_seen_examples = state["num_seen_examples"]
        # Bare tensors, as `serialize` returns them, say no more than how many there are.
        held = state.get("policy_state") or {"seen": torch.tensor(self.num_seen_examples)}
        self._set_state(
            {**self._state, **{name: tensor.to(self.device) for name, tensor in held.items()}}
        )


def apply_transform(images: torch.Tensor, transform: Any) -> torch.Tensor:
    """Applies a torchvision transform to each image of a batch, at once where it can be turned.

    Args:
        images: [B, C, H, W].
        transform: A transform of one image, or None.
    """
    if transform is None:
        return images
    try:
        batched = batch_transform(transform, pil=False)
    except (CannotBatchError, TypeError):  # TypeError: a transform that cannot be hashed
        parts = [
            torch.as_tensor(np.asarray(t) if not torch.is_tensor(t) else t)
            for t in (transform(image) for image in images.cpu())
        ]
        return torch.stack(parts).to(images.device)
    return batched(images)
