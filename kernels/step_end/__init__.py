"""The end of a training step in one launch: counters advance, and the loss is kept.

Random states, the position in the epoch and the numbers of samples seen each change by a small
number in every step. One kernel advances all of them and appends the loss to those of the steps
before, where the host reads many at once.
"""

from mammoth_compiled.kernels.step_end.op import IMPLEMENTATIONS, end_step, end_step_op

__all__ = ["IMPLEMENTATIONS", "end_step", "end_step_op"]
