"""Batches of augmented images: the operator and its implementations."""

from collections.abc import Sequence
from typing import Any

import torch

from mammoth_compiled.kernels.augment import reference
from mammoth_compiled.kernels.runtime.device import triton_why_not
from mammoth_compiled.kernels.runtime.implementations import Implementation, usable
from mammoth_compiled.kernels.runtime.operators import traced_operator


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
    """Builds a training batch from uint8 stores: one launch on a GPU.

    Gathers rows, crops them at random from the padded image, flips them at random, scales them to
    [0, 1], normalizes and casts. Rows of a replay buffer can follow in the same batch.

    Args:
        images: The store, uint8, [N, C, H, W], contiguous or channels-last.
        index: Rows to gather, int64, [B], each in 0..N-1.
        state: State of the generator, `philox.random_state`. It is only read: call
            `philox.advance` once per step.
        mean: Mean of each channel in [0, 1], float32, [C].
        std: Standard deviation of each channel, float32, [C].
        size: (height, width) of the crops, pixels.
        padding: Pixels added at (left, right, top, bottom).
        fill: Value of the added pixels, 0 to 255.
        flip: Probability of a flip left to right.
        replay: A second store with the same image size, and its rows to gather, int64, [M].
        stream: Distinguishes the batches of one step, 0 to 65535.
        dtype: Dtype of the batch: float32, bfloat16 or float16.
        memory_format: Of both results: channels_last or contiguous_format.
        plain: Also return the rows without augmentation, scaled to [0, 1].

    Returns:
        The batch, [B + M, C, height, width], and the plain images, float32, [B + M, C, H, W], or
        None.

    Raises:
        ValueError: If the stores do not fit together or have the wrong dtype or layout, or a crop
            is larger than the padded image.
    """
    second, second_index = (None, None) if replay is None else replay
    is_channels_last = memory_format == torch.channels_last
    batch, plain_images = augment_op(
        *(images, index, second, second_index, state, mean, std),
        *(size, padding, fill, flip, stream, dtype, is_channels_last, plain),
    )
    return batch, plain_images if plain else None


@traced_operator("augment")
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
    results = empty_results(images, index, replay_index, size, dtype, channels_last, plain)
    if replay is None or replay_index is None:
        replay, replay_index = images, index[:0]
    stores = (images, index, replay, replay_index)
    args = (*results, *stores, state, mean, std, padding, fill, flip, stream)
    (best, *_), _ = usable(IMPLEMENTATIONS, images.device, *args)
    best.function(*args)
    return results


@augment_op.register_fake
def _fake(
    images: Any, index: Any, replay: Any, replay_index: Any, *rest: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    _, _, _, size, _, _, _, _, dtype, channels_last, plain = rest
    return empty_results(images, index, replay_index, size, dtype, channels_last, plain)


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
) -> None:
    size = batch.shape[2:]
    rows = torch.cat((images[index], replay[replay_index]))
    positions = reference.num_positions(images, size, padding)
    crops = reference.crop_draws(state, len(rows), *positions, flip, stream)
    batch.copy_(reference.augmented(rows, *crops, mean, std, size, padding, fill))
    if len(plain):
        plain.copy_(reference.scaled(rows))


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


# Each fills the results of `empty_results`: see `triton.forward` for the arguments.
IMPLEMENTATIONS = (
    Implementation("triton", "one Triton kernel", _triton, "cuda", _triton_why_not),
    Implementation("reference", "torch", _reference),
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
                f"augment: {name} must be uint8 [N, C, H, W], contiguous or channels-last; got "
                f"{store.dtype} {list(store.shape)} with strides {list(store.stride())}"
            )
        if store.shape[1:] != images.shape[1:]:
            raise ValueError(
                f"augment: replay holds images of shape {list(store.shape[1:])}, the stream of "
                f"{list(images.shape[1:])}; both must be equal"
            )
    rows, columns = reference.num_positions(images, size, padding)
    if rows < 1 or columns < 1:
        padded = [rows + size[0] - 1, columns + size[1] - 1]
        raise ValueError(
            f"augment: a crop of {list(size)} is larger than the padded image {padded}"
        )


def _is_dense(store: torch.Tensor) -> bool:
    return store.is_contiguous() or store.is_contiguous(memory_format=torch.channels_last)
