"""Cases of ReLU and max pooling."""

from collections.abc import Iterator
from functools import partial

import torch

from mammoth_compiled.kernels.relu_pool.reference import Pair
from mammoth_compiled.kernels.runtime.cases import LaunchCase
from mammoth_compiled.kernels.runtime.layouts import channels_last


def launch_cases() -> Iterator[LaunchCase]:
    """Yields the launches that `kernels.check` compiles: pools of small nets and ResNet stems."""
    from mammoth_compiled.kernels.relu_pool import triton

    def run(z: torch.Tensor, window: Pair, stride: Pair, padding: Pair) -> None:
        y, argmax = triton.forward(z, window, stride, padding)
        size = (z.shape[2], z.shape[3])
        triton.backward(y, argmax, size, window, stride, padding)

    for channels, size, pool in [
        (32, 32, ((2, 2), (2, 2), (0, 0))),
        (64, 16, ((2, 2), (2, 2), (0, 0))),
        (64, 112, ((3, 3), (2, 2), (1, 1))),
    ]:
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            z = channels_last(torch.empty((32, channels, size, size), dtype=dtype, device="meta"))
            name = f"{channels}x{size}x{size} pool {pool[0][0]} {dtype}"
            yield LaunchCase(name, partial(run, z, *pool))
