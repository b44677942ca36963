"""ReLU and max pooling in one kernel, forward and backward without scatter.

The forward pass stores one index per output: the argmax within the pooling window, or a sentinel if
ReLU zeroed it. The backward pass gathers with this index.
"""

from mammoth_compiled.kernels.relu_pool.op import (
    IMPLEMENTATIONS,
    relu_pool,
    relu_pool_backward_op,
    relu_pool_op,
)
from mammoth_compiled.kernels.relu_pool.reference import MAX_WINDOW_SIZE

__all__ = [
    "IMPLEMENTATIONS",
    "MAX_WINDOW_SIZE",
    "relu_pool",
    "relu_pool_backward_op",
    "relu_pool_op",
]
