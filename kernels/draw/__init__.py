"""Random rows without replacement, by a keyed permutation instead of a sort.

Row i of a draw is the image of i under a pseudorandom permutation of 0..n-1, so that rows are
distinct by construction and each is computed on its own.

Source: Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains" (generalized Feistel network
and cycle walking).
"""

from mammoth_compiled.kernels.draw.op import IMPLEMENTATIONS, draw_rows, draw_rows_op

__all__ = ["IMPLEMENTATIONS", "draw_rows", "draw_rows_op"]
