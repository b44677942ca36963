"""RowStore: the tensors of a replay buffer, by name."""

from collections.abc import Mapping
from typing import Any

import torch

from mammoth_compiled.buffers.rows import ATTRIBUTES, allocate, check_rows
from mammoth_compiled.distributed import gathered


class RowStore:
    """N rows of named tensors, which are available as attributes once they hold data.

    The names in `ATTRIBUTES` are allocated by the first rows that have them. `add_column` adds
    other names.

    Args:
        num_rows: N.
        device: Device of the tensors.

    Attributes:
        num_rows: N.
        device: Device of the tensors.
        attributes: Names in the order in which reads return them.

    Example:
        >>> import torch
        >>> store = RowStore(4, torch.device("cpu"))
        >>> store.add_column("difficulty", dtype=torch.float32)
        >>> store.update(torch.tensor([1, 3]), difficulty=torch.tensor([0.5, 2.0]))
        >>> store.difficulty
        tensor([0.0000, 0.5000, 0.0000, 2.0000])
    """

    examples: torch.Tensor
    labels: torch.Tensor
    logits: torch.Tensor
    task_labels: torch.Tensor
    true_labels: torch.Tensor

    def __init__(self, num_rows: int, device: torch.device) -> None:
        self.num_rows = num_rows
        self.device = device
        self.attributes = list(ATTRIBUTES)
        self._columns: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}

    def __getattr__(self, name: str) -> torch.Tensor:
        raise AttributeError(
            f"{type(self).__name__} has no attribute {name!r}, or it holds no data yet"
        )

    @property
    def buffer_size(self) -> int:
        """The capacity in samples, N."""
        return self.num_rows

    @property
    def used_attributes(self) -> list[str]:
        """Names of the attributes that hold data, in the order of `attributes`."""
        return [name for name in self.attributes if name in vars(self)]

    @property
    def read_attributes(self) -> list[str]:
        """Names of the attributes that reads return; `used_attributes` unless a subclass says."""
        return self.used_attributes

    def add_column(
        self, name: str, shape: tuple[int, ...] = (), dtype: torch.dtype = torch.float32
    ) -> None:
        """Adds a tensor with one row per sample, available as the attribute `name`.

        It is zero at first, and zero again for each new sample for which `add_data` gets no value.
        Reads return it behind the fixed attributes, and checkpoints contain it.

        Args:
            name: A name that the buffer does not use yet.
            shape: Shape of one row.
            dtype: Data type.

        Raises:
            ValueError: If the name is taken or not an identifier.
        """
        if name in self.attributes or name in dir(self) or not name.isidentifier():
            raise ValueError(
                f"add_column: {name!r} is taken or not a name; the buffer has "
                f"{', '.join(self.attributes)}"
            )
        self._columns[name] = (tuple(shape), dtype)
        self.attributes.append(name)
        self._allocate_column(name)

    def _allocate_column(self, name: str) -> None:
        shape, dtype = self._columns[name]
        column = torch.zeros((self.num_rows, *shape), dtype=dtype, device=self.device)
        setattr(self, name, column)

    @torch.no_grad()
    def update(self, index: torch.Tensor, **columns: Any) -> None:
        """Overwrites rows in place, without a host sync.

        Args:
            index: Rows to overwrite, int64, [M], such as `get_data(..., return_index=True)`
                returns; each at most once.
            **columns: New values by attribute, [M, ...].

        Raises:
            ValueError: If the buffer stores no such attribute, or the shape is another.
        """
        index = torch.as_tensor(index, device=self.device)
        for name, value in columns.items():
            if name not in self.used_attributes:
                stored = ", ".join(self.used_attributes) or "nothing yet"
                raise ValueError(f"update: the buffer has no {name}; it stores {stored}")
            store = getattr(self, name)
            rows = torch.as_tensor(value).detach().to(self.device, store.dtype)
            expected = (len(index), *store.shape[1:])
            if rows.shape != expected:
                raise ValueError(
                    f"update: {name} must have shape {list(expected)}, got {list(rows.shape)}"
                )
            store.index_copy_(0, gathered(index), gathered(rows))

    def serialize(self, out_device: str | torch.device = "cpu") -> dict[str, torch.Tensor]:
        """Returns the attributes that hold data by name, [N, ...], on a device."""
        return {name: getattr(self, name).to(out_device) for name in self.used_attributes}

    def _load_rows(self, data: Mapping[str, torch.Tensor]) -> None:
        """Replaces all tensors by what `serialize` returned."""
        self._clear_rows()
        for name, tensor in data.items():
            if name not in self.attributes:
                self.add_column(name, tuple(tensor.shape[1:]), tensor.dtype)
            setattr(self, name, tensor.to(self.device))

    def _clear_rows(self) -> None:
        for name in self.used_attributes:
            delattr(self, name)
        for name in self._columns:
            self._allocate_column(name)

    def _prepare(
        self, rows: Mapping[str, torch.Tensor], is_empty: bool
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Pairs new rows with the tensors that they belong to, allocated if they do not exist yet.

        Args:
            rows: New rows by attribute, [B, ...].
            is_empty: True if no row is filled yet.

        Returns:
            The tensors of the store, [N, ...], and their rows on its device, [B, ...].

        Raises:
            ValueError: As `check_rows`.
        """
        batch_size = len(rows["examples"])
        unset = {
            name: torch.zeros((batch_size, *shape), dtype=dtype, device=self.device)
            for name, (shape, dtype) in self._columns.items()
            if name not in rows
        }
        rows = {**rows, **unset}
        held = {name: getattr(self, name) for name in self.used_attributes}
        check_rows(rows, held, is_empty, frozenset(self._columns))
        for name, value in rows.items():
            if name not in held or held[name].shape[1:] != value.shape[1:]:
                setattr(self, name, allocate(name, value, self.num_rows, self.device))
        return [(getattr(self, name), value.to(self.device)) for name, value in rows.items()]
