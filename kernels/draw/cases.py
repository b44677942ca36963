"""Cases of the draw of rows."""

from collections.abc import Iterator
from functools import partial

import torch

from mammoth_compiled.kernels.runtime.cases import LaunchCase


def launch_cases() -> Iterator[LaunchCase]:
    """Yields the launches that `kernels.check` compiles: replay batches of ER and DER."""
    for size, num_rows, masked in ((32, 500, False), (128, 5120, False), (32, 500, True)):
        name = f"{size} of {num_rows}{', masked' if masked else ''}"
        yield LaunchCase(name, partial(_launch, size, num_rows, masked))


def _launch(size: int, num_rows: int, masked: bool) -> None:
    from mammoth_compiled.kernels.draw import triton

    mask = torch.empty(num_rows, dtype=torch.bool, device="meta") if masked else None
    triton.draw(size, num_rows, mask, torch.empty(2, dtype=torch.int64, device="meta"), 0)
