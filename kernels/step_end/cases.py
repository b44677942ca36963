"""Cases of the end of a training step."""

from collections.abc import Iterator
from functools import partial

import torch

from mammoth_compiled.kernels.runtime.cases import LaunchCase


def launch_cases() -> Iterator[LaunchCase]:
    """Yields the launches that `kernels.check` compiles: the counters of SGD and of ER."""
    for count in (2, 4):
        yield LaunchCase(f"{count} counters", partial(_launch, count))


def _launch(count: int) -> None:
    from mammoth_compiled.kernels.step_end import triton

    counters = [torch.empty(1, dtype=torch.int64, device="meta") for _ in range(count)]
    loss, losses = torch.empty((), device="meta"), torch.empty(1024, device="meta")
    triton.end(counters, [1] * count, loss, losses, counters[0].clone())
