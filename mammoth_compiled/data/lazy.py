"""LazyBatch: a batch that its consumer materializes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class LazyBatch:
    """Tensors, and the function that turns them into a batch.

    The training step materializes the batch itself, so that a CUDA graph can capture gathering and
    augmentation too.

    Attributes:
        materialize: Called as `materialize(*tensors)`, returns the tensors of the batch (see
            `mammoth_compiled.types.Batch`). Causes no host sync; its operations depend only on the
            shapes and dtypes of its arguments.
        tensors: Arguments of `materialize`, on the device; the first dimension of each is B.

    Example:
        >>> import torch
        >>> images = torch.arange(4.0)
        >>> lazy = LazyBatch(lambda index: (images[index],), (torch.tensor([3, 1]),))
        >>> lazy.materialize(*lazy.tensors)
        (tensor([3., 1.]),)
    """

    materialize: Callable[..., tuple[torch.Tensor, ...]]
    tensors: tuple[torch.Tensor, ...]


def ready_batch(batch: Sequence[torch.Tensor]) -> LazyBatch:
    """Wraps a batch that exists already.

    Args:
        batch: The tensors of the batch, [B, ...] each.

    Returns:
        A lazy batch whose `materialize` returns these tensors.
    """
    return LazyBatch(_identity, tuple(batch))


def _identity(*batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return batch
