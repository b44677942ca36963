"""Sums over the rows of a matrix, with a C++ kernel for CPUs."""

from mammoth_compiled.kernels.row_sum.op import IMPLEMENTATIONS, reason_not, sum_rows_op

__all__ = ["IMPLEMENTATIONS", "reason_not", "sum_rows_op"]
