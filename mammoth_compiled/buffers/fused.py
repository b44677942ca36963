"""Rows of a buffer, gathered and augmented by one GPU kernel."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch

from mammoth_compiled.data.fused import FusedTransform, fuse_transform
from mammoth_compiled.kernels.augment import augment
from mammoth_compiled.kernels.augment.op import DTYPES
from mammoth_compiled.kernels.runtime.deferred import advance_counters, settle_counters


def fused_rows(
    examples: torch.Tensor,
    columns: Sequence[torch.Tensor],
    index: torch.Tensor,
    transform: Any,
    random: torch.Tensor | None,
    draws_from: int = 0,
) -> tuple[torch.Tensor, ...] | None:
    """Gathers rows and transforms their images in one launch, if the kernel can compute that.

    Args:
        examples: Images, [N, C, H, W], uint8, or float32 in [0, 1].
        columns: Other attributes, [N, ...] each.
        index: Rows, int64, [M].
        transform: torchvision transform of one image tensor.
        random: State of the generator; None where there is no kernel.
        draws_from: n > 0 draws the rows from 0..n-1, writes them to `index`, and advances the
            state; 0 only reads it.

    Returns:
        The transformed images, float32, [M, C, H', W'], and the rows of each column; None if the
        kernel cannot compute the transform.
    """
    if random is None or examples.dim() != 4 or examples.dtype not in DTYPES or not len(index):
        return None
    try:
        fused = _fused(transform, examples.shape[1], examples.device)
    except TypeError:  # the transform is not hashable
        return None
    if fused is None:
        return None
    parameters, mean, std = fused
    settle_counters(random[1])  # of a draw before in the same step
    images, _, gathered = augment(
        *(examples, index, random, mean, std),
        size=parameters.size or (examples.shape[2], examples.shape[3]),
        padding=parameters.padding,
        fill=parameters.fill,
        flip=parameters.flip,
        memory_format=torch.contiguous_format,
        columns=columns,
        draws_from=draws_from,
    )
    if draws_from:
        advance_counters([random[1]], [1])
    return images, *gathered


@lru_cache(maxsize=32)
def _fused(
    transform: Any, num_channels: int, device: torch.device
) -> tuple[FusedTransform, torch.Tensor, torch.Tensor] | None:
    parameters = fuse_transform(transform, is_pil=False)
    return None if parameters is None else (parameters, *parameters.moments(num_channels, device))
