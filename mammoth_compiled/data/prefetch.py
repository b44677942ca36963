"""Images too large for the GPU: rows of host memory, prefetched one batch ahead."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache

import torch

from mammoth_compiled.console import say

# Waits for a copy on the device and returns its rows.
Receive = Callable[[], tuple[torch.Tensor, ...]]
Send = Callable[[Sequence[torch.Tensor], torch.Tensor], Receive]

# Share of the free GPU memory for images; the rest is for weights, activations and the buffer.
MEMORY_SHARE = 0.4


def fits_on_device(num_bytes: int, device: torch.device) -> bool:
    """Returns whether images fit on a device: within 40 % of the free memory of a GPU.

    Args:
        num_bytes: Size of the images.
        device: Any device; everything fits on a CPU.
    """
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return num_bytes <= MEMORY_SHARE * free


@cache
def report_prefetching(device: torch.device) -> None:
    """Prints, once per device, that images do not fit."""
    say(
        f"data: the images of a task need more than {MEMORY_SHARE:.0%} of the free memory of "
        f"{device}; they stay in host memory and are copied batch by batch"
    )


def prefetch_rows(
    tensors: Sequence[torch.Tensor], batches: Iterable[torch.Tensor], device: torch.device
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yields batches of rows on a device; the next batch is copied while one is in use.

    On a GPU, rows are gathered in pinned memory and copied on a CUDA stream of their own. The
    stream of the consumer waits for them; the host does not.

    Args:
        tensors: Tensors in host memory, each [N, ...].
        batches: Row indices of each batch, int64, [B], in host memory.
        device: Device of the result.

    Yields:
        The rows of each tensor, [B, ...].

    Example:
        >>> import torch
        >>> rows = torch.arange(4) * 10
        >>> batches = torch.tensor([[3, 0], [1, 2]])
        >>> [batch.tolist() for batch, in prefetch_rows([rows], batches, torch.device("cpu"))]
        [[30, 0], [10, 20]]
    """
    send = _cuda_sender(device) if device.type == "cuda" else _gather
    previous: Receive | None = None
    for index in batches:
        current = send(tensors, index)
        if previous is not None:
            yield previous()
        previous = current
    if previous is not None:
        yield previous()


def _gather(tensors: Sequence[torch.Tensor], index: torch.Tensor) -> Receive:
    rows = tuple(tensor[index] for tensor in tensors)
    return lambda: rows


def _cuda_sender(device: torch.device) -> Send:
    copy_stream = torch.cuda.Stream(device)

    def send(tensors: Sequence[torch.Tensor], index: torch.Tensor) -> Receive:
        # The pinned-memory allocator reuses a block only after the copies from it have finished.
        pinned = [
            torch.empty((len(index), *t.shape[1:]), dtype=t.dtype, pin_memory=True) for t in tensors
        ]
        for tensor, rows in zip(tensors, pinned, strict=True):
            torch.index_select(tensor, 0, index, out=rows)
        with torch.cuda.stream(copy_stream):
            copies = tuple(rows.to(device, non_blocking=True) for rows in pinned)
        is_copied = copy_stream.record_event()

        def receive() -> tuple[torch.Tensor, ...]:
            consumer = torch.cuda.current_stream(device)
            consumer.wait_event(is_copied)
            for rows in copies:
                rows.record_stream(consumer)
            return copies

        return receive

    return send
