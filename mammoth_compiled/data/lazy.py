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
        window: Where the batch is in the order of the epoch, if it can be read from there.

    Example:
        >>> import torch
        >>> images = torch.arange(4.0)
        >>> lazy = LazyBatch(lambda index: (images[index],), (torch.tensor([3, 1]),))
        >>> lazy.materialize(*lazy.tensors)
        (tensor([3., 1.]),)
    """

    materialize: Callable[..., tuple[torch.Tensor, ...]]
    tensors: tuple[torch.Tensor, ...]
    window: "Window | None" = None


@dataclass(frozen=True, eq=False)
class Window:
    """A batch as consecutive entries of the order of an epoch.

    A captured step finds them by a position on the device, so that nothing is copied for a replay.

    Attributes:
        order: Indices of items, int64, [n]; the same tensor for all batches of an epoch.
        start: Where the batch begins.
        gather: Called as `gather(order, position, size)` with the position as a tensor, int64, [1];
            returns the tensors of the batch like `LazyBatch.materialize`.
    """

    order: torch.Tensor
    start: int
    gather: Callable[[torch.Tensor, torch.Tensor, int], tuple[torch.Tensor, ...]]


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
