"""The shapes that are measured on a GPU: those of the seed document's backbones and more."""

import torch

from mammoth_compiled.compiler.ways import AttentionProblem, ConvProblem
from mammoth_compiled.kernels import attention, conv_relu_pool
from mammoth_compiled.kernels.problem import Work

BATCHES = (32, 128, 512)
DTYPES = (torch.bfloat16, torch.float32)  # float32 products are taken in tf32

CONVOLUTIONS = [
    ConvProblem(dtype, batch, cin, size, size, cout, needs_input_grad=cin != 3)
    for cin, cout, size in ((3, 32, 32), (32, 64, 16), (64, 128, 8), (3, 64, 32))
    for batch in BATCHES
    for dtype in DTYPES
]
ATTENTION = [
    AttentionProblem(dtype, batch, heads, length, length, size)
    for length, heads, size in ((1024, 1, 64), (256, 1, 128), (64, 3, 64))
    for batch in BATCHES
    for dtype in DTYPES
]


def conv_work(problem):
    """Work of forward and backward."""
    shape = (problem.batch, problem.channels_in, problem.height, problem.width)
    return _sum(
        conv_relu_pool.work(shape, problem.channels_out, problem.dtype),
        conv_relu_pool.work(
            shape,
            problem.channels_out,
            problem.dtype,
            backward=True,
            input_grad=problem.needs_input_grad,
        ),
    )


def attention_work(problem):
    """Work of forward and backward."""
    shape = (problem.batch, problem.heads, problem.queries, problem.size)
    return _sum(
        *(
            attention.work(shape, problem.keys, problem.dtype, backward=backward)
            for backward in (False, True)
        )
    )


def _sum(*works):
    return Work(sum(w.bytes_moved for w in works), sum(w.operations for w in works))
