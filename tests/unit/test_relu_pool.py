"""relu and pooling in one, against torch's two operations, values and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mammoth_compiled.kernels.relu_pool import MAX_CELLS, relu_pool


def both(z, window, layout=torch.contiguous_format):
    """(value, gradient) of the kernel and of torch, for the same incoming gradient."""
    results = []
    for function in (relu_pool, lambda x, w: F.max_pool2d(F.relu(x), w)):
        x = z.clone(memory_format=layout).requires_grad_()
        y = function(x, window)
        y.backward(torch.arange(1.0, y.numel() + 1, dtype=z.dtype).view(y.shape))
        results.append((y.detach(), x.grad))
    return results


def assert_equal(one, other):
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@settings(max_examples=80)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    window=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    seed=st.integers(0, 10_000),
    few=st.booleans(),
)
def test_equals_relu_then_pool(shape, window, seed, few):
    window = (min(window[0], shape[2]), min(window[1], shape[3]))
    generator = torch.Generator().manual_seed(seed)
    # Few different values make ties, of which the first wins.
    z = (
        torch.randint(-1, 3, shape, generator=generator).float()
        if few
        else torch.randn(shape, generator=generator)
    )
    assert_equal(*both(z, window))


def test_pool_then_relu_is_the_same():
    z = torch.randn(2, 3, 6, 4)
    assert torch.equal(relu_pool(z, (2, 2)), F.relu(F.max_pool2d(z, 2)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_types(dtype):
    (value, grad), expected = both(torch.randn(2, 3, 4, 4).to(dtype), (2, 2))
    assert value.dtype == grad.dtype == dtype
    assert_equal((value, grad), expected)


def test_channels_last():
    z = torch.randn(2, 4, 6, 6)
    one, other = both(z, (2, 2), torch.channels_last)
    assert_equal(one, other)
    channels_last = z.to(memory_format=torch.channels_last)
    assert relu_pool(channels_last, (2, 2)).is_contiguous(memory_format=torch.channels_last)


def test_all_dead_gives_no_gradient():
    (value, grad), expected = both(-torch.rand(1, 1, 4, 4), (2, 2))
    assert value.count_nonzero() == grad.count_nonzero() == 0
    assert_equal((value, grad), expected)


def test_nan_is_kept():
    z = torch.randn(1, 1, 4, 4)
    z[0, 0, 1, 1] = float("nan")
    expected = F.max_pool2d(F.relu(z), 2)
    assert expected.isnan().sum() == 1
    assert torch.equal(relu_pool(z, (2, 2)).nan_to_num(-1), expected.nan_to_num(-1))


def test_the_largest_window():
    # Winners are remembered as bfloat16, which counts exactly to 256.
    height, width = 15, 17
    assert height * width == MAX_CELLS
    for winner in (0, 127, 128, MAX_CELLS - 1):
        z = torch.zeros(1, 1, height, width)
        z.view(-1)[winner] = 1.0
        assert_equal(*both(z, (height, width)))


def test_gradcheck():
    z = torch.randn(1, 2, 4, 6, dtype=torch.float64).mul(3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: relu_pool(x, (2, 3)), z)
