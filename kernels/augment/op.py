"""Batches of augmented images: the operator and its implementations."""

from collections.abc import Sequence
from typing import Any

import torch

from mammoth_compiled.kernels.augment import reference
from mammoth_compiled.kernels.draw.reference import drawn
from mammoth_compiled.kernels.runtime.device import triton_why_not
from mammoth_compiled.kernels.runtime.implementations import Implementation, usable
from mammoth_compiled.kernels.runtime.operators import traced_operator

# Dtypes of the stores, and columns that one launch can gather.
DTYPES = (torch.uint8, torch.float32)
MAX_COLUMNS = 4


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
    columns: Sequence[torch.Tensor] = (),
    window: tuple[torch.Tensor, int] | None = None,
    draws_from: int = 0,
) -> tuple[torch.Tensor, torch.Tensor | None, list[torch.Tensor]]:
    """Builds a training batch from stores of images: one launch on a GPU.

    Gathers rows, crops them at random from the padded image, flips them at random, scales them to
    [0, 1], normalizes and casts. Rows of a replay buffer can follow in the same batch. Values that
    belong to the images, such as labels, are gathered with them.

    Args:
        images: The store, uint8 or float32 in [0, 1], [N, C, H, W], contiguous or channels-last.
            Floats are truncated to multiples of 1/255 first, as by torchvision's ToPILImage.
        index: Rows to gather, int64, [B], each in 0..N-1.
        state: State of the generator, `philox.random_state`. It is only read: call
            `philox.advance` once per step.
        mean: Mean of each channel in [0, 1], float32, [C].
        std: Standard deviation of each channel, float32, [C].
        size: (height, width) of the crops, pixels.
        padding: Pixels added at (left, right, top, bottom).
        fill: Value of the added pixels, 0 to 255.
        flip: Probability of a flip left to right.
        replay: A second store of the same dtype and image size, and its rows to gather, int64, [M].
        stream: Distinguishes the batches of one step, 0 to 65535.
        dtype: Dtype of the batch: float32, bfloat16 or float16.
        memory_format: Of both results: channels_last or contiguous_format.
        plain: Also return the rows without augmentation, scaled to [0, 1].
        columns: Contiguous tensors, [N, ...], whose rows belong to those of `images`; only without
            `replay`. The kernel gathers up to MAX_COLUMNS of them.
        window: (position, B) gathers the B rows from a position on, int64, [1], of a longer
            `index`, which has at least position + B entries. The host need not know the position.
        draws_from: n > 0 draws the rows without replacement from 0..n-1, as `draw_rows` does with
            this state, and writes them to `index`. Crops and flips are those of the next step, so
            that `philox.advance` afterwards leaves the state that both calls would leave. Not with
            `replay` or `window`.

    Returns:
        The batch, [B + M, C, height, width], the plain images, float32, [B + M, C, H, W], or None,
        and the rows of each column, [B, ...].

    Raises:
        ValueError: If the stores do not fit together or have the wrong dtype or layout, or a crop
            is larger than the padded image.
    """
    second, second_index = (None, None) if replay is None else replay
    position, count = (None, len(index)) if window is None else window
    is_channels_last = memory_format == torch.channels_last
    batch, plain_images, *gathered = augment_op(
        *(images, index, second, second_index, state, mean, std),
        *(size, padding, fill, flip, stream, dtype, is_channels_last, plain),
        *(list(columns[:MAX_COLUMNS]), position, count, draws_from),
    )
    if columns[MAX_COLUMNS:]:
        rows = _rows(index, position, count)
        gathered += [column[rows] for column in columns[MAX_COLUMNS:]]
    return batch, plain_images if plain else None, gathered


@traced_operator("augment", mutates=("index",))
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
    columns: Sequence[torch.Tensor],
    position: torch.Tensor | None = None,
    count: int = 0,
    draws_from: int = 0,
) -> list[torch.Tensor]:
    """Computes `augment`: batch, plain images (empty unless `plain`), and rows of the columns.

    Gathers all rows of `index`, or `count` rows from `position` on.
    """
    _check_stores(images, replay, size, padding, columns)
    if position is None:
        count = len(index)
    results = empty_results(
        images, index.narrow(0, 0, count), replay_index, size, dtype, channels_last, plain
    )
    gathered = [column.new_empty((count, *column.shape[1:])) for column in columns]
    if replay is None or replay_index is None:
        replay, replay_index = images, index.new_empty((0,))
    stores = (images, index, replay, replay_index)
    draws = (state, mean, std, padding, fill, flip, stream)
    args = (*results, *stores, *draws, columns, gathered, position, draws_from)
    (best, *_), _ = usable(IMPLEMENTATIONS, images.device, *args)
    best.function(*args)
    return [*results, *gathered]


@augment_op.register_fake
def _fake(
    images: Any, index: Any, replay: Any, replay_index: Any, *rest: Any
) -> list[torch.Tensor]:
    _, _, _, size, _, _, _, _, dtype, channels_last, plain, columns, *window = rest
    position, count = window[:2] or (None, 0)
    if position is None:
        count = len(index)
    results = empty_results(
        images, index.narrow(0, 0, count), replay_index, size, dtype, channels_last, plain
    )
    return [*results, *(column.new_empty((count, *column.shape[1:])) for column in columns)]


def _rows(index: torch.Tensor, position: torch.Tensor | None, count: int) -> torch.Tensor:
    """Returns the rows to gather, int64, [count], without a host sync."""
    if position is None:
        return index
    return index[position + torch.arange(count, device=index.device)]


def empty_results(
    images: torch.Tensor,
    index: torch.Tensor,
    replay_index: torch.Tensor | None,
    size: Sequence[int],
    dtype: torch.dtype,
    channels_last: bool,
    plain: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the two results of `augment_op`, uninitialized."""
    batch = len(index) + (0 if replay_index is None else len(replay_index))
    _, channels, height, width = images.shape
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def empty(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=images.device, memory_format=layout)

    plain_shape = (batch if plain else 0, channels, height, width)
    return empty((batch, channels, *size), dtype), empty(plain_shape, torch.float32)


def _triton(*args: Any) -> None:
    from mammoth_compiled.kernels.augment import triton

    triton.forward(*args)


def _reference(
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
    columns: Sequence[torch.Tensor],
    gathered: Sequence[torch.Tensor],
    position: torch.Tensor | None = None,
    draws_from: int = 0,
) -> None:
    size = batch.shape[2:]
    if draws_from:
        index.copy_(drawn(len(index), draws_from, None, state))
        state = state + torch.tensor([0, 1], device=state.device)
    index = _rows(index, position, len(batch) - len(replay_index))
    rows = reference.to_bytes(torch.cat((images[index], replay[replay_index])))
    positions = reference.num_positions(images, size, padding)
    crops = reference.crop_draws(state, len(rows), *positions, flip, stream)
    batch.copy_(reference.augmented(rows, *crops, mean, std, size, padding, fill))
    if len(plain):
        plain.copy_(reference.scaled(rows))
    for column, result in zip(columns, gathered, strict=True):
        result.copy_(column[index])


def _triton_why_not(
    batch: torch.Tensor,
    plain: torch.Tensor,
    images: torch.Tensor,
    index: torch.Tensor,
    replay: torch.Tensor,
    replay_index: torch.Tensor,
    state: torch.Tensor,
    mean: torch.Tensor,
    std: torch.Tensor,
    *_: Any,
) -> str:
    return triton_why_not(images, index, state, mean, std, any_dtype=True)


# Each fills the results of `empty_results` and the gathered rows; see `triton.forward`.
IMPLEMENTATIONS = (
    Implementation("triton", "one Triton kernel", _triton, "cuda", _triton_why_not),
    Implementation("reference", "torch", _reference),
)


def _check_stores(
    images: torch.Tensor,
    replay: torch.Tensor | None,
    size: Sequence[int],
    padding: Sequence[int],
    columns: Sequence[torch.Tensor],
) -> None:
    for name, store in (("images", images), ("replay", replay)):
        if store is None:
            continue
        if store.dtype not in DTYPES or store.dim() != 4 or not _is_dense(store):
            raise ValueError(
                f"augment: {name} must be uint8 or float32, [N, C, H, W], contiguous or "
                f"channels-last; got {store.dtype} {list(store.shape)} with strides "
                f"{list(store.stride())}"
            )
        if store.shape[1:] != images.shape[1:] or store.dtype != images.dtype:
            raise ValueError(
                f"augment: replay holds images of shape {list(store.shape[1:])} and {store.dtype}, "
                f"the stream of {list(images.shape[1:])} and {images.dtype}; both must be equal"
            )
    for column in columns:
        if replay is not None or len(column) != len(images) or not column.is_contiguous():
            raise ValueError(
                f"augment: columns must be contiguous, [{len(images)}, ...], and without replay; "
                f"got {list(column.shape)} with strides {list(column.stride())}"
            )
    free_rows, free_columns = reference.num_positions(images, size, padding)
    if free_rows < 1 or free_columns < 1:
        padded = [free_rows + size[0] - 1, free_columns + size[1] - 1]
        raise ValueError(
            f"augment: a crop of {list(size)} is larger than the padded image {padded}"
        )


def _is_dense(store: torch.Tensor) -> bool:
    return store.is_contiguous() or store.is_contiguous(memory_format=torch.channels_last)
