"""A linear classifier and its mean cross-entropy, with all gradients, in two kernels."""

from mammoth_compiled.kernels.linear_cross_entropy.op import (
    IMPLEMENTATIONS,
    linear_cross_entropy_op,
)

__all__ = ["IMPLEMENTATIONS", "linear_cross_entropy_op"]
