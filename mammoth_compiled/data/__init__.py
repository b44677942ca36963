"""From a dataset's images to batches on the device."""

from mammoth_compiled.data.lazy import LazyBatch, ready_batch
from mammoth_compiled.data.loader import TaskLoader

__all__ = ["LazyBatch", "TaskLoader", "ready_batch"]
