"""Mammoth's `utils.buffer`."""

from typing import Any

import torch

from mammoth_compiled.buffers import Buffer as BaseBuffer
from mammoth_compiled.models.common.task_replay import fill_buffer, icarl_replay

__all__ = ["Buffer", "fill_buffer", "icarl_replay"]


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
        """Offers a batch; see `mammoth_compiled.Buffer.add_data`. `attention_maps` are ignored."""
        super().add_data(
            examples, labels, logits, task_labels, true_labels, sample_selection_scores
        )
