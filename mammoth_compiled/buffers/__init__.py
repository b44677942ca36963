"""The replay memory: `Buffer`, and the policies that fill it."""

from mammoth_compiled.buffers.buffer import Buffer

__all__ = ["Buffer"]
