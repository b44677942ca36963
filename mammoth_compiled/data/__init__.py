"""Data loading: from the images of a dataset to batches on the device."""

from mammoth_compiled.data.lazy import LazyBatch, Window, ready_batch
from mammoth_compiled.data.loader import TaskLoader
from mammoth_compiled.data.transforms import apply_transform

__all__ = ["LazyBatch", "TaskLoader", "Window", "apply_transform", "ready_batch"]
