"""From a dataset's images to batches on the device."""

from mammoth_compiled.data.lazy import LazyBatch, ready_batch
from mammoth_compiled.data.loader import TaskLoader
from mammoth_compiled.data.transforms import apply_transform

__all__ = ["LazyBatch", "TaskLoader", "apply_transform", "ready_batch"]
