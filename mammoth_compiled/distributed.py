"""Data-parallel training: several processes (ranks) that compute parts of each training step.

Every rank holds the whole model, dataset and replay buffer, draws the same random numbers and so
sees the same global batches. In a training step whose batch divides evenly a rank computes its
rows of the stream batch and of each replay batch; the gradients are averaged, and what the step
stores is gathered. All ranks compute everything else alike, ragged steps and hooks between tasks
included. So the result is that of one process, apart from the order of summation.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import distributed

from mammoth_compiled.launch import is_launched

Value = TypeVar("Value")


class _State:
    """What this process is doing.

    Attributes:
        is_divided: Whether it computes its part of a training step.
    """

    is_divided = False


_state = _State()


def num_ranks() -> int:
    """Returns the number of ranks, 1 outside `session`."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Returns the number of this rank, 0 outside `session`."""
    return distributed.get_rank() if distributed.is_initialized() else 0


@contextlib.contextmanager
def session(device_type: str) -> Iterator[None]:
    """Connects the processes that torchrun started; does nothing in a single process.

    Args:
        device_type: "cuda" for NCCL and one GPU per process, "cpu" for Gloo.
    """
    if not is_launched():
        yield
        return
    if device_type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("nccl" if device_type == "cuda" else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


@contextlib.contextmanager
def divided(num_images: int) -> Iterator[None]:
    """Surrounds a training step, which is divided among the ranks if its batch divides evenly.

    Args:
        num_images: Images of the stream in the step.
    """
    _state.is_divided = num_ranks() > 1 and num_images % num_ranks() == 0
    try:
        yield
    finally:
        _state.is_divided = False


def share(count: int) -> int:
    """Returns a rank's share of a number of rows, all of them if they do not divide evenly."""
    return count // num_ranks() if count % num_ranks() == 0 else count


def part(rows: torch.Tensor) -> torch.Tensor:
    """Returns the rows of this rank, [B / ranks, ...], in a divided step; else all.

    The rows that remain of a number that does not divide evenly belong to no rank.
    """
    size = len(rows) // num_ranks()
    return rows[rank() * size : (rank() + 1) * size] if _state.is_divided and size else rows


def gathered(rows: torch.Tensor) -> torch.Tensor:
    """Returns the rows of all ranks in order, [ranks * B, ...], in a divided step; else `rows`."""
    if not _state.is_divided:
        return rows
    # Not every backend transfers booleans.
    sent = rows.contiguous().to(torch.uint8 if rows.dtype is torch.bool else rows.dtype)
    received = [torch.empty_like(sent) for _ in range(num_ranks())]
    distributed.all_gather(received, sent)
    return torch.cat(received).to(rows.dtype)


@torch.no_grad()
def average_(tensors: Sequence[torch.Tensor]) -> None:
    """Replaces tensors by their means over the ranks, in a divided step.

    One transfer for all tensors of a data type. There is no overlap with the backward pass; in
    return a step may run the network several times and through compiled graphs.
    """
    if not _state.is_divided:
        return
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        own = [tensor for tensor in tensors if tensor.dtype is dtype]
        flat = torch.cat([tensor.reshape(-1) for tensor in own])
        distributed.all_reduce(flat)
        flat /= num_ranks()
        pieces = flat.split([tensor.numel() for tensor in own])
        torch._foreach_copy_(own, [p.view_as(t) for p, t in zip(pieces, own, strict=True)])


def add_up_(tensors: Iterable[torch.Tensor]) -> None:
    """Replaces tensors by their sums over the ranks."""
    if num_ranks() > 1:
        for tensor in tensors:
            distributed.all_reduce(tensor)


def maximum(value: int, device: torch.device) -> int:
    """Returns the largest value of any rank."""
    if num_ranks() == 1:
        return value
    tensor = torch.tensor(value, device=device)
    distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
    return int(tensor)


def from_main(value: Value) -> Value:
    """Returns the value that rank 0 has."""
    if num_ranks() == 1:
        return value
    values: list[Any] = [value]
    distributed.broadcast_object_list(values)
    return values[0]


@torch.no_grad()
def synchronize_(tensors: Iterable[torch.Tensor]) -> None:
    """Replaces tensors by those of rank 0."""
    if num_ranks() > 1:
        for tensor in tensors:
            sent = tensor.contiguous()
            distributed.broadcast(sent, 0)
            if sent.data_ptr() != tensor.data_ptr():
                tensor.copy_(sent)


def is_equal_everywhere(tensors: Iterable[torch.Tensor], device: torch.device) -> bool:
    """Returns whether tensors have the same values on all ranks, by a sum of each."""
    if num_ranks() == 1:
        return True
    sums = torch.stack([t.detach().to(device, torch.float64).sum() for t in tensors])
    highest, lowest = sums.clone(), sums.clone()
    distributed.all_reduce(highest, distributed.ReduceOp.MAX)
    distributed.all_reduce(lowest, distributed.ReduceOp.MIN)
    return torch.equal(highest, lowest)
