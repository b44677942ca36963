"""Softmax attention that keeps no L x L tensor in memory on a GPU, and joint projections."""

from mammoth_compiled.kernels.attention.op import (
    IMPLEMENTATIONS,
    attention_backward_op,
    attention_op,
)
from mammoth_compiled.kernels.attention.projections import joint_linear

__all__ = ["IMPLEMENTATIONS", "attention_backward_op", "attention_op", "joint_linear"]
