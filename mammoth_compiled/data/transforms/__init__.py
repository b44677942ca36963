"""Batched versions of torchvision transforms; every module of this package registers some."""

from mammoth_compiled.data.transforms.base import CannotBatchError
from mammoth_compiled.data.transforms.batched import (
    BatchedTransform,
    apply_transform,
    batch_transform,
)
from mammoth_compiled.plugins import import_submodules

import_submodules(__name__, __path__)

__all__ = ["BatchedTransform", "CannotBatchError", "apply_transform", "batch_transform"]
