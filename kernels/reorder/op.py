"""Copies of images between contiguous and channels-last: the operator and its implementations."""

from typing import Any

import torch

from mammoth_compiled.kernels.reorder import cpp
from mammoth_compiled.kernels.runtime.cpp_library import cpp_why_not
from mammoth_compiled.kernels.runtime.implementations import Implementation
from mammoth_compiled.kernels.runtime.layouts import channels_last as to_channels_last
from mammoth_compiled.kernels.runtime.layouts import empty_images
from mammoth_compiled.kernels.runtime.operators import opaque_operator


@opaque_operator("reorder_images")
def reorder_images_op(images: torch.Tensor, channels_last: bool) -> torch.Tensor:
    """Copies images, [B, C, H, W], to channels-last or else to contiguous, in C++ where possible.

    It is inserted where gradients are not needed any more, and has none.
    """
    if reason_not(images, channels_last):
        return _torch(images, channels_last)
    result = _empty(images, channels_last)
    cpp.reorder(images, result)
    return result


def reason_not(images: torch.Tensor, channels_last: bool) -> str:
    """Returns why the C++ kernel cannot copy images, "" if it can."""
    if images.dim() != 4:
        return "its input is not a batch of images"
    before = torch.contiguous_format if channels_last else torch.channels_last
    if not images.is_contiguous(memory_format=before):
        return "its input has another layout"
    return cpp_why_not(images)


@reorder_images_op.register_fake
def _empty(images: Any, channels_last: bool) -> torch.Tensor:
    if channels_last:
        return empty_images(tuple(images.shape), images)
    empty: torch.Tensor = images.new_empty(images.shape)
    return empty


def _torch(images: torch.Tensor, channels_last: bool) -> torch.Tensor:
    # A copy also where the layouts are the same: an operator returns none of its inputs.
    result = to_channels_last(images) if channels_last else images.contiguous()
    return _empty(images, channels_last).copy_(result) if result is images else result


# Each takes (images, channels_last).
IMPLEMENTATIONS = (
    Implementation("cpp", "one C++ kernel", reorder_images_op, "cpu", reason_not),
    Implementation("torch", "torch", _torch),
)
