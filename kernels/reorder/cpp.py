"""Launcher of the C++ kernel that copies images between layouts."""

import ctypes

import torch

from mammoth_compiled.kernels.runtime.cpp_library import call


class Matrices(ctypes.Structure):
    """Sizes of a batch of matrices; see `reorder.cpp`."""

    _fields_ = [
        *((size, ctypes.c_int64) for size in ("batch", "rows", "columns")),
        ("threads", ctypes.c_int32),
    ]

    threads: int


def reorder(images: torch.Tensor, result: torch.Tensor) -> None:
    """Copies images between contiguous and channels-last.

    Args:
        images: [B, C, H, W], float32, in either layout.
        result: Likewise in the other layout; set in place.
    """
    batch, channels, height, width = images.shape
    sizes = (channels, height * width)
    rows, columns = sizes if images.is_contiguous() else sizes[::-1]
    if images.numel():
        call("reorder_images", Matrices(batch, rows, columns), images, result)
