"""Images too large for the device: rows of host memory, copied one batch ahead."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache

import torch

from mammoth_compiled.console import say

# Hands over rows that were sent, on the device.
Receive = Callable[[], tuple[torch.Tensor, ...]]

# Of the device's free memory; the rest is for weights, activations and the buffer.
SHARE = 0.4


def fits(num_bytes: int, device: torch.device) -> bool:
    """Returns whether images may lie on the device: on a GPU in 40 % of its free memory."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return num_bytes <= SHARE * free


@cache
def say_streamed(device: torch.device) -> None:
    """Says once that images do not fit."""
    say(
        f"data: a task's images take more than {SHARE:.0%} of the free memory of {device}, so they "
        "stay in host memory and are copied batch by batch"
    )


def stream(
    tensors: Sequence[torch.Tensor], batches: Iterable[torch.Tensor], device: torch.device
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yields rows of host tensors on a device; while one batch is used, the next is on its way.

    On a GPU the rows are gathered into pinned memory and copied by a CUDA stream of their own.
    Their consumer's stream waits for them, the host does not.

    Args:
        tensors: In host memory, each [N, ...].
        batches: Row numbers of each batch, int64, [B], in host memory.
        device: Where the rows are wanted.
    """
    send = _over_a_lane(device) if device.type == "cuda" else _as_they_are
    waiting: Receive | None = None
    for index in batches:
        following = send(tensors, index)
        if waiting is not None:
            yield waiting()
        waiting = following
    if waiting is not None:
        yield waiting()


def _as_they_are(tensors: Sequence[torch.Tensor], index: torch.Tensor) -> Receive:
    rows = tuple(tensor[index] for tensor in tensors)
    return lambda: rows


def _over_a_lane(device: torch.device) -> Callable[[Sequence[torch.Tensor], torch.Tensor], Receive]:
    lane = torch.cuda.Stream(device)

    def send(tensors: Sequence[torch.Tensor], index: torch.Tensor) -> Receive:
        # The allocator of pinned memory reuses a block only when the copies from it are done.
        pinned = [
            torch.empty((len(index), *t.shape[1:]), dtype=t.dtype, pin_memory=True) for t in tensors
        ]
        for tensor, rows in zip(tensors, pinned, strict=True):
            torch.index_select(tensor, 0, index, out=rows)
        with torch.cuda.stream(lane):
            sent = tuple(rows.to(device, non_blocking=True) for rows in pinned)
        arrived = lane.record_event()

        def receive() -> tuple[torch.Tensor, ...]:
            consumer = torch.cuda.current_stream(device)
            consumer.wait_event(arrived)
            for rows in sent:
                rows.record_stream(consumer)
            return sent

        return receive

    return send
