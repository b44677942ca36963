"""Mammoth's `utils.ring_buffer`."""

from mammoth_compiled.buffers.task_rings import RingBuffer

__all__ = ["RingBuffer"]
