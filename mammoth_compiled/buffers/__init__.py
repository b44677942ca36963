"""Replay memory."""

from mammoth_compiled.buffers.buffer import Buffer, apply_transform

__all__ = ["Buffer", "apply_transform"]
