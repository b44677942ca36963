"""Batches of augmented images in Triton: rows of two uint8 stores become one batch in one launch.

A program computes consecutive elements of one image in memory order, so that writes are contiguous
in either layout. It draws the random words of its image itself; no program depends on another.
"""

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from mammoth_compiled.kernels.augment import reference
from mammoth_compiled.kernels.draw.reference import STREAM as DRAW_STREAM
from mammoth_compiled.kernels.draw.triton import permuted
from mammoth_compiled.kernels.runtime import philox
from mammoth_compiled.kernels.runtime.launch import ceil_div, launch
from mammoth_compiled.kernels.runtime.tiles import select_tile


@triton.jit
def _position(
    element, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, CHANNELS_LAST: tl.constexpr
):
    """Returns channel, row and column of an element of an image."""
    if CHANNELS_LAST:
        channel, pixel = element % C, element // C
    else:
        channel, pixel = element // (H * W), element % (H * W)
    return channel, pixel // W, pixel % W


@triton.jit
def _bytes(stored):
    """Returns stored pixels as integers; floats in [0, 1] are truncated like ToPILImage's."""
    if stored.dtype.is_floating():
        stored = (stored * 255.0).to(tl.int32)
    return stored


@triton.jit
def _copy(column, gathered, row, sample, ROW: tl.constexpr, BLOCK: tl.constexpr):
    """Copies the row of an image from a column of ROW elements a row; ROW is 0 if there is none."""
    if ROW > 0:
        for start in range(0, ROW, BLOCK):
            at = start + tl.arange(0, BLOCK)
            value = tl.load(column + row * ROW + at, mask=at < ROW, other=0)
            tl.store(gathered + sample.to(tl.int64) * ROW + at, value, mask=at < ROW)


@triton.jit
def _scaled(byte):
    # The exact quotient, as torch computes it; `/` is an approximation on a GPU.
    return tl.div_rn(byte.to(tl.float32), 255.0)


@triton.jit(do_not_specialize=["num_rows"])
def forward_kernel(
    batch,  # [B + M, C, OH, OW]
    plain,  # [B + M, C, H, W], float32, if PLAIN
    images,  # [N, C, H, W], uint8 or float32
    index,  # [B], int64, or longer if WINDOWED
    position,  # [1], int64: where in `index` the batch begins, if WINDOWED
    replay,  # [K, C, H, W], likewise
    replay_index,  # [M], int64
    state,  # [2], int64: seed and step
    mean,  # [C], float32
    std,  # [C], float32
    column0, column1, column2, column3,  # each [N, ROW], of any dtype
    gathered0, gathered1, gathered2, gathered3,  # each [B, ROW], likewise
    num_stream,  # B
    num_rows,  # n, if DRAWS
    stream,
    C: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    OH: tl.constexpr,
    OW: tl.constexpr,
    ABOVE: tl.constexpr,
    BEFORE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    FILL: tl.constexpr,
    FLIP: tl.constexpr,
    IMAGES_CHANNEL: tl.constexpr,
    IMAGES_PIXEL: tl.constexpr,
    REPLAY_CHANNEL: tl.constexpr,
    REPLAY_PIXEL: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PLAIN: tl.constexpr,
    WINDOWED: tl.constexpr,
    DRAWS: tl.constexpr,
    DRAW_STREAM: tl.constexpr,
    ROW0: tl.constexpr, ROW1: tl.constexpr, ROW2: tl.constexpr, ROW3: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """A program computes BLOCK consecutive elements of one image."""
    sample = tl.program_id(0)
    element = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    step = tl.load(state + 1)
    if WINDOWED:
        index += tl.load(position)
    if DRAWS:
        # One row, computed by every program of the image.
        item = (sample + tl.arange(0, 1)) % num_rows
        row = tl.sum(permuted(item, num_rows, tl.load(state), step, DRAW_STREAM), 0).to(tl.int64)
        if tl.program_id(1) == 0:
            tl.store(index + sample, row)
        step += 1
        source = images + row * (C * H * W)
    elif sample < num_stream:
        row = tl.load(index + sample).to(tl.int64)
        source = images + row * (C * H * W)
    else:
        row = tl.load(replay_index + sample - num_stream).to(tl.int64)
        source = replay + row * (C * H * W)
    channel_step = tl.where(sample < num_stream, IMAGES_CHANNEL, REPLAY_CHANNEL)
    pixel_step = tl.where(sample < num_stream, IMAGES_PIXEL, REPLAY_PIXEL)
    start = sample.to(tl.int64)

    low, high = step.to(tl.uint32), (step >> 32).to(tl.uint32)
    vertical, horizontal, flip_word, _ = tl.philox(tl.load(state), low, high, sample, stream)
    top = ((vertical.to(tl.int64) * ROWS) >> 32).to(tl.int32)
    left = ((horizontal.to(tl.int64) * COLUMNS) >> 32).to(tl.int32)
    flipped = flip_word.to(tl.int64) < FLIP

    channel, y, x = _position(element, C, OH, OW, CHANNELS_LAST)
    inside = element < C * OH * OW
    y = y + top - ABOVE
    x = tl.where(flipped, OW - 1 - x, x) + left - BEFORE
    valid = inside & (y >= 0) & (y < H) & (x >= 0) & (x < W)
    stored = tl.load(source + channel * channel_step + (y * W + x) * pixel_step, valid, other=0)
    byte = tl.where(valid, _bytes(stored), FILL)
    value = _scaled(byte) - tl.load(mean + channel, inside, other=0.0)
    value = tl.div_rn(value, tl.load(std + channel, inside, other=1.0))
    target = batch + start * (C * OH * OW) + element
    tl.store(target, value.to(batch.dtype.element_ty), mask=inside)

    if PLAIN:
        channel, y, x = _position(element, C, H, W, CHANNELS_LAST)
        inside = element < C * H * W
        at = source + channel * channel_step + (y * W + x) * pixel_step
        stored = tl.load(at, inside, other=0)
        tl.store(plain + start * (C * H * W) + element, _scaled(_bytes(stored)), mask=inside)

    if tl.program_id(1) == 0:
        _copy(column0, gathered0, row, sample, ROW0, BLOCK)
        _copy(column1, gathered1, row, sample, ROW1, BLOCK)
        _copy(column2, gathered2, row, sample, ROW2, BLOCK)
        _copy(column3, gathered3, row, sample, ROW3, BLOCK)


def forward(
    batch: torch.Tensor,
    plain: torch.Tensor,
    images: torch.Tensor,
    index: torch.Tensor,
    replay: torch.Tensor,
    replay_index: torch.Tensor,
    state: torch.Tensor,
    mean: torch.Tensor,
    std: torch.Tensor,
    padding: Sequence[int],
    fill: int,
    flip: float,
    stream: int,
    columns: Sequence[torch.Tensor] = (),
    gathered: Sequence[torch.Tensor] = (),
    position: torch.Tensor | None = None,
    draws_from: int = 0,
) -> None:
    """Fills a batch, `plain` unless it is empty, and the rows of the columns; see `op.augment`.

    Args:
        batch: [B + M, C, height, width], contiguous or channels_last.
        plain: [B + M, C, H, W] or empty, float32, in the layout of `batch`.
        images: The stream's store, uint8 or float32, [N, C, H, W], contiguous or channels_last.
        index: Its rows, int64, [B], or longer if there is a position.
        replay: The buffer's store, of the same dtype, [K, C, H, W], contiguous or channels_last.
        replay_index: Its rows, int64, [M], possibly empty.
        state: Seed and step, int64, [2].
        mean: float32, [C].
        std: float32, [C].
        padding: Pixels added at (left, right, top, bottom).
        fill: Value of the added pixels, 0 to 255.
        flip: Probability of a flip.
        stream: Distinguishes the batches of one step.
        columns: At most `op.MAX_COLUMNS` tensors, [N, ...], contiguous.
        gathered: Their rows, [B, ...].
        position: Where in `index` the batch begins, int64, [1]; None at the beginning.
        draws_from: n > 0 draws the rows from 0..n-1 and writes them to `index`.
    """
    samples, channels, *size = batch.shape
    height, width = images.shape[2:]
    free_rows, free_columns = reference.num_positions(images, size, padding)
    sizes = {"batch": samples, "channels": channels, "height": height, "width": width}
    config = select_tile("augment.forward", batch.dtype, sizes, batch.device)
    pixels = max(size[0] * size[1], height * width if len(plain) else 0)
    images_channel, images_pixel = _strides(images)
    replay_channel, replay_pixel = _strides(replay)
    # Where there is no column, a tensor that is only read is passed.
    spare = [index] * (4 - len(columns))
    row_sizes = [*(math.prod(column.shape[1:]) for column in columns), *(0 for _ in spare)]
    launch(
        forward_kernel,
        (samples, ceil_div(channels * pixels, config["BLOCK"])),
        *(batch, plain, images, index, index if position is None else position),
        *(replay, replay_index, state, mean, std),
        *(*columns, *spare, *gathered, *spare),
        samples - len(replay_index),
        draws_from,
        reference.STREAM + stream,
        config=config,
        C=channels,
        H=height,
        W=width,
        OH=size[0],
        OW=size[1],
        ABOVE=padding[2],
        BEFORE=padding[0],
        ROWS=free_rows,
        COLUMNS=free_columns,
        FILL=fill,
        FLIP=philox.threshold(flip),
        IMAGES_CHANNEL=images_channel,
        IMAGES_PIXEL=images_pixel,
        REPLAY_CHANNEL=replay_channel,
        REPLAY_PIXEL=replay_pixel,
        # Of a single pixel, or a single channel, a result is in both layouts.
        CHANNELS_LAST=all(
            result.is_contiguous(memory_format=torch.channels_last) for result in (batch, plain)
        ),
        PLAIN=len(plain) > 0,
        WINDOWED=position is not None,
        DRAWS=draws_from > 0,
        DRAW_STREAM=DRAW_STREAM,
        **{f"ROW{k}": size for k, size in enumerate(row_sizes)},
    )


def _strides(store: torch.Tensor) -> tuple[int, int]:
    """Returns the strides of channels and pixels of an image."""
    _, channels, height, width = store.shape
    return (height * width, 1) if store.is_contiguous() else (1, channels)
