"""From a dataset's images to batches on the device."""

from mammoth_compiled.data.loader import LazyBatch, TaskLoader

__all__ = ["LazyBatch", "TaskLoader"]
