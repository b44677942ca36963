"""The data kernel: batches of augmented images out of stores of bytes: reference and operator.

Each image has its own draw, which depends on the generator's state and the image's position in the
batch only, so that CPU, interpreter and GPU make the same batch.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from mammoth_compiled.kernels import philox
from mammoth_compiled.kernels.launch import on_gpu, operator
from mammoth_compiled.kernels.problem import Work

# Keeps these draws apart from those of other operations in the same step.
STREAM = 1 << 16


def crop_flip(
    images: torch.Tensor,
    top: torch.Tensor,
    left: torch.Tensor,
    flip: torch.Tensor,
    size: tuple[int, int],
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    fill: float = 0,
) -> torch.Tensor:
    """Pads, crops and flips every image by its own numbers.

    Args:
        images: [B, C, H, W], any dtype.
        top: First row of each crop in the padded image, int64, [B].
        left: First column of each crop in the padded image, int64, [B].
        flip: Whether each crop is mirrored left to right, bool, [B].
        size: (height, width) of the crops, pixels.
        padding: Pixels added at (left, right, top, bottom).
        fill: Value of the added pixels.

    Returns:
        The crops, [B, C, height, width], same dtype.
    """
    height, width = size
    if any(padding):
        images = F.pad(images, padding, value=fill)
    columns = torch.arange(width, device=images.device).expand(len(images), width)
    columns = torch.where(flip[:, None], width - 1 - columns, columns) + left[:, None]
    rows = torch.arange(height, device=images.device) + top[:, None]
    batch, channels, _, padded_width = images.shape
    # One gather over flat pixels is several times faster on a CPU than three index tensors.
    pixels = (rows[:, :, None] * padded_width + columns[:, None, :]).view(batch, 1, height * width)
    flat = images.flatten(2).gather(2, pixels.expand(batch, channels, height * width))
    return flat.view(batch, channels, height, width)


def draws(
    state: torch.Tensor, batch: int, rows: int, columns: int, flip: float, stream: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draws where each image is cropped and whether it is mirrored.

    The distribution of torchvision's RandomCrop followed by RandomHorizontalFlip; see
    `philox.below` and `philox.happens` for how near.

    Args:
        state: State of the generator, `philox.random_state`; it is not advanced.
        batch: B, number of images.
        rows: Number of places for the first row.
        columns: Number of places for the first column.
        flip: Probability to mirror.
        stream: Tells batches of one step apart, 0 to 65535.

    Returns:
        top and left, int64, [B], and mirrored, bool, [B].
    """
    vertical, horizontal, mirror, _ = philox.draw(state, batch, STREAM + stream)
    return (
        philox.below(vertical, rows),
        philox.below(horizontal, columns),
        philox.happens(mirror, flip),
    )


def reference(
    images: torch.Tensor,
    top: torch.Tensor,
    left: torch.Tensor,
    mirrored: torch.Tensor,
    mean: torch.Tensor,
    std: torch.Tensor,
    size: Sequence[int],
    padding: Sequence[int],
    fill: int,
) -> torch.Tensor:
    """Makes a batch of given draws, as torchvision makes one image after the other.

    Args:
        images: Bytes, [B, C, H, W].
        top: First row of each crop in the padded image, int64, [B].
        left: First column of each crop, int64, [B].
        mirrored: Whether each crop is mirrored, bool, [B].
        mean: Of each channel in [0, 1], float32, [C].
        std: Of each channel, float32, [C].
        size: (height, width) of the crops.
        padding: Pixels added at (left, right, top, bottom).
        fill: Value of the added pixels, 0 to 255.

    Returns:
        The batch, float32, [B, C, height, width].
    """
    height, width = size
    before, after, above, below = padding
    crops = crop_flip(
        images, top, left, mirrored, (height, width), (before, after, above, below), fill
    )
    return (scaled(crops) - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)


def scaled(images: torch.Tensor) -> torch.Tensor:
    """Returns bytes as float32 in [0, 1]."""
    return images.float().div(255)


def augment(
    images: torch.Tensor,
    index: torch.Tensor,
    state: torch.Tensor,
    mean: torch.Tensor,
    std: torch.Tensor,
    *,
    size: tuple[int, int],
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    fill: int = 0,
    flip: float = 0.0,
    replay: tuple[torch.Tensor, torch.Tensor] | None = None,
    stream: int = 0,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.channels_last,
    plain: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Makes a training batch out of stores of bytes: one launch on a GPU.

    Gathers rows, crops them at random out of the padded image, mirrors them at random, scales to
    [0, 1], normalises and casts. Rows of a replay buffer can follow in the same batch.

    Args:
        images: The store, uint8, [N, C, H, W], contiguous or channels_last.
        index: Rows to take, int64, [B], each in 0..N-1.
        state: State of the generator, `philox.random_state`. It is only read: call
            `philox.advance` once per step.
        mean: Of each channel in [0, 1], float32, [C].
        std: Of each channel, float32, [C].
        size: (height, width) of the crops, pixels.
        padding: Pixels added at (left, right, top, bottom).
        fill: Value of the added pixels, 0 to 255.
        flip: Probability to mirror a crop left to right.
        replay: A second store of the same image size, and its rows to take, int64, [M].
        stream: Tells batches of one step apart, 0 to 65535.
        dtype: Of the batch: float32, bfloat16 or float16.
        memory_format: Of both results: channels_last or contiguous_format.
        plain: Also return the rows as they are, scaled to [0, 1].

    Returns:
        The batch, [B + M, C, height, width], and the plain images, float32, [B + M, C, H, W], or
        None.

    Raises:
        ValueError: If stores do not fit each other or the kernel, or a crop is larger than the
            padded image.
    """
    second, second_index = (None, None) if replay is None else replay
    layout = memory_format == torch.channels_last
    batch, untouched = augment_op(
        *(images, index, second, second_index, state, mean, std),
        *(size, padding, fill, flip, stream, dtype, layout, plain),
    )
    return batch, untouched if plain else None


@operator("augment")
def augment_op(
    images: torch.Tensor,
    index: torch.Tensor,
    replay: torch.Tensor | None,
    replay_index: torch.Tensor | None,
    state: torch.Tensor,
    mean: torch.Tensor,
    std: torch.Tensor,
    size: Sequence[int],
    padding: Sequence[int],
    fill: int,
    flip: float,
    stream: int,
    dtype: torch.dtype,
    channels_last: bool,
    plain: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes `augment`; the second result is empty unless `plain`."""
    _check_stores(images, replay, size, padding)
    results = outputs(images, index, replay_index, size, dtype, channels_last, plain)
    if replay is None or replay_index is None:
        replay, replay_index = images, index[:0]
    if on_gpu(images, index, state, mean, std):
        from mammoth_compiled.kernels.gpu import augment as gpu

        gathered = (images, index, replay, replay_index)
        gpu.forward(*results, *gathered, state, mean, std, padding, fill, flip, stream)
        return results
    taken = torch.cat((images[index], replay[replay_index]))
    places = num_places(images, size, padding)
    crops = draws(state, len(taken), *places, flip, stream)
    results[0].copy_(reference(taken, *crops, mean, std, size, padding, fill))
    if plain:
        results[1].copy_(scaled(taken))
    return results


@augment_op.register_fake
def _fake(
    images: Any, index: Any, replay: Any, replay_index: Any, *rest: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    _, _, _, size, _, _, _, _, dtype, channels_last, plain = rest
    return outputs(images, index, replay_index, size, dtype, channels_last, plain)


def outputs(
    images: torch.Tensor,
    index: torch.Tensor,
    replay_index: torch.Tensor | None,
    size: Sequence[int],
    dtype: torch.dtype,
    channels_last: bool,
    plain: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the two results of `augment_op`, not filled yet."""
    batch = len(index) + (0 if replay_index is None else len(replay_index))
    _, channels, height, width = images.shape
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def empty(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=images.device, memory_format=layout)

    untouched = (batch if plain else 0, channels, height, width)
    return empty((batch, channels, *size), dtype), empty(untouched, torch.float32)


def num_places(
    images: torch.Tensor, size: Sequence[int], padding: Sequence[int]
) -> tuple[int, int]:
    """Returns in how many places a crop can begin: rows, columns."""
    before, after, above, below = padding
    return (
        images.shape[2] + above + below - size[0] + 1,
        images.shape[3] + before + after - size[1] + 1,
    )


def work(shape: Sequence[int], dtype: torch.dtype, *, plain: bool = False) -> Work:
    """Returns what a batch needs at least, each byte read and each result written once.

    Args:
        shape: (B, C, H, W) of the batch, the replayed rows among them.
        dtype: Of the batch.
        plain: Whether the images are written as they are, too.
    """
    pixels = math.prod(shape)
    written = dtype.itemsize + (torch.float32.itemsize if plain else 0)
    # A division to scale, a subtraction and a division to normalise.
    return Work(
        bytes_moved=pixels * (1 + written) + shape[0] * torch.int64.itemsize, operations=3 * pixels
    )


def _check_stores(
    images: torch.Tensor,
    replay: torch.Tensor | None,
    size: Sequence[int],
    padding: Sequence[int],
) -> None:
    for name, store in (("images", images), ("replay", replay)):
        if store is None:
            continue
        if store.dtype != torch.uint8 or store.dim() != 4 or not _is_dense(store):
            raise ValueError(
                f"augment: {name} must be uint8 [N, C, H, W], contiguous or channels_last; got "
                f"{store.dtype} {list(store.shape)} with strides {list(store.stride())}"
            )
        if store.shape[1:] != images.shape[1:]:
            raise ValueError(
                f"augment: replay holds images of shape {list(store.shape[1:])}, the stream of "
                f"{list(images.shape[1:])}; both must be equal"
            )
    rows, columns = num_places(images, size, padding)
    if rows < 1 or columns < 1:
        padded = [rows + size[0] - 1, columns + size[1] - 1]
        raise ValueError(
            f"augment: a crop of {list(size)} is larger than the padded image {padded}"
        )


def _is_dense(store: torch.Tensor) -> bool:
    return store.is_contiguous() or store.is_contiguous(memory_format=torch.channels_last)
