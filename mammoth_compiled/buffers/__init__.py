"""The replay memory: `Buffer`, the policies that fill it, and `RingBuffer`."""

from mammoth_compiled.buffers.buffer import Buffer
from mammoth_compiled.buffers.task_rings import RingBuffer

__all__ = ["Buffer", "RingBuffer"]
