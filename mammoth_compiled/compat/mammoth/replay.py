"""The functions of Mammoth's `utils.buffer` that move samples between a buffer and a task."""

from mammoth_compiled.models.common.task_replay import fill_buffer, herd, icarl_replay

__all__ = ["fill_buffer", "herd", "icarl_replay"]
