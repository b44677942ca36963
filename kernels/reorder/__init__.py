"""Copies of images between contiguous and channels-last, with a C++ kernel for CPUs."""

from mammoth_compiled.kernels.reorder.op import IMPLEMENTATIONS, reason_not, reorder_images_op

__all__ = ["IMPLEMENTATIONS", "reason_not", "reorder_images_op"]
