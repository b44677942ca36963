"""Data loading: from the images of a dataset to batches on the device."""

from mammoth_compiled.data.lazy import LazyBatch, ready_batch
from mammoth_compiled.data.loader import TaskLoader
from mammoth_compiled.data.transforms import apply_transform

__all__ = ["LazyBatch", "TaskLoader", "apply_transform", "ready_batch"]
