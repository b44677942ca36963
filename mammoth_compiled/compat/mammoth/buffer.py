"""Mammoth's `utils.buffer`."""

from collections.abc import Sequence
from typing import Any

import torch

from mammoth_compiled.buffers import Buffer as BaseBuffer
from mammoth_compiled.models.common.task_replay import fill_buffer, icarl_replay

__all__ = ["Buffer", "fill_buffer", "icarl_replay"]

# The attention maps of layer k are the column with this name and k.
_MAPS = "attention_map_"


class Buffer(BaseBuffer):
    """`mammoth_compiled.Buffer` with Mammoth's constructor and its leniency.

    `add_data` ignores surplus rows of labels and other attributes, and stores zeros for attributes
    that are missing.

    Args:
        buffer_size: Capacity in samples, N; ignored if unlimited.
        device: Device of the tensors.
        sample_selection_strategy: "reservoir", "unlimited", "balancoir", "lars", "labrs" or "abs".
        dataset: The dataset, which "abs" needs.
    """

    def __init__(
        self,
        buffer_size: int,
        device: str | torch.device = "cpu",
        sample_selection_strategy: str = "reservoir",
        dataset: Any = None,
    ) -> None:
        super().__init__(
            buffer_size,
            device,
            sample_selection_strategy=sample_selection_strategy,
            dataset=dataset,
            lenient=True,
        )

    def add_data(  # type: ignore[override]
        self,
        examples: Any,
        labels: Any = None,
        logits: Any = None,
        task_labels: Any = None,
        attention_maps: Any = None,
        true_labels: Any = None,
        sample_selection_scores: Any = None,
    ) -> None:
        """Offers a batch; see `mammoth_compiled.Buffer.add_data`.

        Args:
            examples: Images, [B, ...].
            labels: Class ids, [B].
            logits: Logits, [B, K].
            task_labels: Task ids, [B].
            attention_maps: One tensor for each layer, [B, ...], stored as bytes.
            true_labels: Labels without noise, [B].
            sample_selection_scores: Scores for the strategies "lars", "labrs" and "abs", [B].
        """
        maps = dict(enumerate(attention_maps or ()))
        super().add_data(
            examples,
            labels,
            logits,
            task_labels,
            true_labels,
            sample_selection_scores,
            **{self._layer(k, value): value.byte() for k, value in maps.items()},
        )

    def _layer(self, k: int, maps: torch.Tensor) -> str:
        """Returns the name of the attention maps of layer k, for which there is room then."""
        name = f"{_MAPS}{k}"
        if name not in self.attributes:
            self.add_column(name, tuple(maps.shape[1:]), torch.uint8)
        return name

    @property
    def read_attributes(self) -> list[str]:
        """Names of the attributes that reads return, without the attention maps."""
        return [name for name in self.used_attributes if not name.startswith(_MAPS)]

    @property
    def attention_maps(self) -> "AttentionMaps":
        """The attention maps of each row, a list of one tensor for each layer."""
        return AttentionMaps(self)


class AttentionMaps:
    """The attention maps of a buffer, read and written by row as a list.

    A row for which none were given has zeros, or None if no row has any.

    Args:
        buffer: The buffer.
    """

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer

    def __len__(self) -> int:
        return self._buffer.num_rows

    def __getitem__(self, row: Any) -> list[torch.Tensor] | None:
        names = [name for name in self._buffer.used_attributes if name.startswith(_MAPS)]
        return [getattr(self._buffer, name)[row] for name in names] or None

    def __setitem__(self, row: Any, maps: Sequence[torch.Tensor]) -> None:
        columns = {self._buffer._layer(k, m[None]): m[None].byte() for k, m in enumerate(maps)}
        self._buffer.update(torch.as_tensor(row).reshape(1), **columns)
