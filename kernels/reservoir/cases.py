"""Cases of the reservoir kernel."""

from collections.abc import Iterator
from functools import partial

import torch

from mammoth_compiled.kernels.runtime.cases import LaunchCase, Work


def launch_cases() -> Iterator[LaunchCase]:
    """Yields the launches that `kernels.check` compiles: buffers of ER and DER++."""
    for batch, capacity, shape, dtype, by_index, logits in [
        (32, 500, (3, 32, 32), torch.uint8, True, 10),
        (512, 5120, (3, 32, 32), torch.uint8, True, 0),
        (32, 500, (3, 32, 32), torch.float32, False, 100),
        (128, 200, (1, 28, 28), torch.float32, False, 0),
    ]:
        name = f"{batch} of {shape} {dtype}" + (f", {logits} logits" if logits else "")
        yield LaunchCase(name, partial(_launch, batch, capacity, shape, dtype, by_index, logits))


def _launch(
    batch: int,
    capacity: int,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    by_index: bool,
    logits: int,
) -> None:
    from mammoth_compiled.kernels.reservoir import triton

    def tensor(rows: int, *shape: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
        return torch.empty((rows, *shape), dtype=dtype, device="meta")

    source = 50_000 if by_index else batch
    stores = [tensor(capacity, *shape, dtype=dtype), tensor(capacity)]
    rows = [tensor(source, *shape, dtype=dtype), tensor(source)]
    flags = [by_index, by_index]
    if logits:
        stores.append(tensor(capacity, logits, dtype=torch.float32))
        rows.append(tensor(batch, logits, dtype=torch.bfloat16))
        flags.append(False)
    index = tensor(batch) if by_index else None
    triton.update(stores, rows, flags, index, tensor(1), tensor(2), 0, batch)


def reservoir_work(batch: int, num_written: int, row_bytes: int) -> Work:
    """Returns the least work of an update.

    Args:
        batch: Items offered.
        num_written: Items that are written.
        row_bytes: Bytes of an item over all stores.
    """
    # Two words per item from ten rounds with two multiplications each.
    return Work(num_bytes=2 * num_written * row_bytes, num_flops=20 * batch)
