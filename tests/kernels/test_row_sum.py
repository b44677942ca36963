"""Sums over the rows of a matrix in C++: in the order of the rows, in any size."""

import pytest
import torch

from mammoth_compiled.kernels.row_sum import reason_not, sum_rows_op


@pytest.mark.usefixtures("cpp_kernels")
@pytest.mark.parametrize("shape", [(32, 10), (7, 16), (1, 1), (128, 100), (3, 0)])
def test_rows_are_added_in_order(with_threads, shape):
    x = torch.randn(shape)
    assert not reason_not(x)
    expected = torch.zeros(1, shape[1])
    for row in x:
        expected += row
    for threads in (1, 2):
        assert torch.equal(with_threads(threads, lambda: sum_rows_op(x)), expected)


def test_other_matrices_are_added_up_by_torch():
    x = torch.randn(4, 6, dtype=torch.float64).t()
    assert reason_not(x)
    assert torch.equal(sum_rows_op(x), x.sum(0, keepdim=True))


def test_fake_tensors_have_the_shape():
    torch.library.opcheck(sum_rows_op, (torch.randn(5, 3),))
