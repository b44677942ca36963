"""Cases of the augmentation kernel."""

import math
from collections.abc import Iterator, Sequence
from functools import partial

import torch

from mammoth_compiled.kernels.augment import op
from mammoth_compiled.kernels.runtime.cases import LaunchCase, Work


def launch_cases() -> Iterator[LaunchCase]:
    """Yields the launches that `kernels.check` compiles: CIFAR, Tiny ImageNet and MNIST sizes."""
    for batch, channels, size, layout, plain in [
        (32, 3, 32, torch.channels_last, True),
        (512, 3, 32, torch.contiguous_format, False),
        (128, 3, 64, torch.channels_last, False),
        (32, 1, 28, torch.contiguous_format, True),
    ]:
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            name = f"{batch}+{batch}x{channels}x{size}x{size} {dtype}"
            launch = partial(_launch, batch, (channels, size, size), layout, dtype, plain)
            yield LaunchCase(name, launch)
    # The replay batches of DER++ on CIFAR-100: float images, labels and logits.
    for batch in (32, 128):
        name = f"{batch}x3x32x32 from float32, with labels and logits"
        yield LaunchCase(name, partial(_launch_replay, batch, (3, 32, 32), 0))
        yield LaunchCase(f"{name}, drawn", partial(_launch_replay, batch, (3, 32, 32), 500))
    # The stream batch of a captured step.
    yield LaunchCase("32x3x32x32 of an epoch's order", partial(_launch_window, 32, (3, 32, 32)))


def _launch(
    batch: int,
    shape: tuple[int, int, int],
    layout: torch.memory_format,
    dtype: torch.dtype,
    plain: bool,
) -> None:
    from mammoth_compiled.kernels.augment import triton

    images = torch.empty((50_000, *shape), dtype=torch.uint8, device="meta")
    images = images.contiguous(memory_format=torch.channels_last)
    replay = torch.empty((500, *shape), dtype=torch.uint8, device="meta")
    index = torch.empty(batch, dtype=torch.int64, device="meta")
    mean, std = torch.empty((2, shape[0]), device="meta")
    state = torch.empty(2, dtype=torch.int64, device="meta")
    is_channels_last = layout == torch.channels_last
    results = op.empty_results(images, index, index, shape[1:], dtype, is_channels_last, plain)
    stores = (images, index, replay, index)
    triton.forward(*results, *stores, state, mean, std, (4, 4, 4, 4), 0, 0.5, 0)


def _launch_window(batch: int, shape: tuple[int, int, int]) -> None:
    from mammoth_compiled.kernels.augment import triton

    images = torch.empty((50_000, *shape), dtype=torch.uint8, device="meta")
    order = torch.empty(50_000, dtype=torch.int64, device="meta")
    mean, std = torch.empty((2, shape[0]), device="meta")
    state, position = order[:2].clone(), order[:1].clone()
    index, columns, gathered = order[:batch], [order], [order[:batch].clone()]
    results = op.empty_results(images, index, None, shape[1:], torch.float32, False, True)
    stores = (images, order, images, order[:0], state, mean, std)
    triton.forward(*results, *stores, (4, 4, 4, 4), 0, 0.5, 0, columns, gathered, position)


def _launch_replay(batch: int, shape: tuple[int, int, int], draws_from: int) -> None:
    from mammoth_compiled.kernels.augment import triton

    images = torch.empty((500, *shape), device="meta")
    index = torch.empty(batch, dtype=torch.int64, device="meta")
    columns = [torch.empty(500, dtype=torch.int64, device="meta"), images.new_empty((500, 100))]
    gathered = [column.new_empty((batch, *column.shape[1:])) for column in columns]
    mean, std = torch.empty((2, shape[0]), device="meta")
    state = torch.empty(2, dtype=torch.int64, device="meta")
    results = op.empty_results(images, index, None, shape[1:], torch.float32, False, False)
    stores = (images, index, images, index.new_empty((0,)), state, mean, std)
    triton.forward(*results, *stores, (4, 4, 4, 4), 0, 0.5, 0, columns, gathered, None, draws_from)


def augment_work(shape: Sequence[int], dtype: torch.dtype, *, plain: bool = False) -> Work:
    """Returns the least work of a batch, each byte read once and each result written once.

    Args:
        shape: (B, C, H, W) of the batch, including replayed rows.
        dtype: Dtype of the batch.
        plain: Whether the images are also written without augmentation.
    """
    pixels = math.prod(shape)
    written = dtype.itemsize + (torch.float32.itemsize if plain else 0)
    # A division to scale, a subtraction and a division to normalize.
    return Work(
        num_bytes=pixels * (1 + written) + shape[0] * torch.int64.itemsize, num_flops=3 * pixels
    )
