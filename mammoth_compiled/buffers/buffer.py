"""The replay memory."""

from typing import Any, Self

import numpy as np
import torch

from mammoth_compiled.data.transforms import CannotBatchError, batch_transform
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.kernels.reservoir import reservoir_slots, slot_owners, write_slots

# The order is the order in which `get_data` returns them.
ATTRIBUTES = ("examples", "labels", "logits", "task_labels", "true_labels")


class Buffer:
    """A replay memory filled by reservoir sampling.

    Tensors appear as attributes with the first `add_data`, each of `buffer_size` rows of which the
    first `len(buffer)` are filled: `examples` as given (float32 unless given as bytes), `labels`,
    `task_labels` and `true_labels` int64, `logits` float32.

    Args:
        buffer_size: Capacity in samples.
        device: Where the samples are kept.

    Attributes:
        num_seen_examples: How many examples the stream has offered so far.

    Raises:
        ConfigError: If `buffer_size` is not a positive integer.

    Note:
        Differs from mammoth_lite: writing and reading are batched and draw from torch's generator;
        `get_data` applies a torchvision transform to the whole batch where it can be turned.
    """

    examples: torch.Tensor
    labels: torch.Tensor
    logits: torch.Tensor
    task_labels: torch.Tensor
    true_labels: torch.Tensor

    def __init__(self, buffer_size: int, device: str | torch.device = "cpu") -> None:
        if not isinstance(buffer_size, (int, np.integer)) or buffer_size < 1:
            raise ConfigError(f"buffer_size must be an integer >= 1, got {buffer_size!r}")
        self.buffer_size = int(buffer_size)
        self.device = torch.device(device)
        self.num_seen_examples = 0
        self.attributes = list(ATTRIBUTES)

    def __len__(self) -> int:
        """Returns the number of filled rows."""
        return min(self.num_seen_examples, self.buffer_size)

    def is_empty(self) -> bool:
        """Returns whether nothing has been added yet."""
        return self.num_seen_examples == 0

    def is_full(self) -> bool:
        """Returns whether all rows are filled."""
        return self.num_seen_examples >= self.buffer_size

    @property
    def used_attributes(self) -> list[str]:
        """The attributes that hold data."""
        return [name for name in self.attributes if hasattr(self, name)]

    def to(self, device: str | torch.device) -> Self:
        """Moves the samples to a device."""
        self.device = torch.device(device)
        for name in self.used_attributes:
            setattr(self, name, getattr(self, name).to(self.device))
        return self

    def reset(self) -> None:
        """Forgets everything."""
        for name in self.used_attributes:
            delattr(self, name)
        self.num_seen_examples = 0

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
        """Offers a batch of the stream to the reservoir.

        Args:
            examples: Images, [B, ...]; tensor or array, as are the others.
            labels: Class ids, [B].
            logits: Network outputs to replay, [B, K].
            task_labels: Task ids, [B].
            true_labels: Labels without noise, [B].
            sample_selection_scores: Taken for compatibility; the reservoir does not use scores.

        Raises:
            ValueError: If the number of rows differs, or the attributes given are not those of the
                first `add_data`.
        """
        given = dict(
            zip(ATTRIBUTES, (examples, labels, logits, task_labels, true_labels), strict=True)
        )
        rows = {name: torch.as_tensor(v).detach() for name, v in given.items() if v is not None}
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
        self._allocate(rows)
        slots = reservoir_slots(self.num_seen_examples, batch, self.buffer_size, self.device)
        owner = slot_owners(slots, self.buffer_size)
        for name, value in rows.items():
            write_slots(getattr(self, name), value.to(self.device), slots, owner)
        self.num_seen_examples += batch

    def _allocate(self, rows: dict[str, torch.Tensor]) -> None:
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
        index = torch.randperm(len(self), device=self.device)[:size]
        data = self.get_data_by_index(index, transform, device)
        return (index.to(data[0].device), *data) if return_index else data

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
        return self.get_data_by_index(torch.arange(len(self)), transform, device)

    def serialize(self, out_device: str | torch.device = "cpu") -> dict[str, torch.Tensor]:
        """Returns the attributes that hold data, on a device."""
        return {name: getattr(self, name).to(out_device) for name in self.used_attributes}

    def state_dict(self) -> dict[str, Any]:
        """Returns all that is needed to go on as if never stopped, tensors on the CPU."""
        return {
            "buffer_size": self.buffer_size,
            "num_seen_examples": self.num_seen_examples,
            "data": {name: tensor.clone() for name, tensor in self.serialize().items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts back what `state_dict` returned.

        Raises:
            ValueError: If it comes from a buffer of another size.
        """
        if state["buffer_size"] != self.buffer_size:
            raise ValueError(
                f"the saved buffer has {state['buffer_size']} rows, this one {self.buffer_size}: "
                f"use --buffer_size {state['buffer_size']}"
            )
        self.reset()
        for name, tensor in state["data"].items():
            setattr(self, name, tensor.to(self.device))
        self.num_seen_examples = state["num_seen_examples"]


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
