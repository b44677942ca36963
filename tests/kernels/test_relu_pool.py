"""ReLU and pooling: reference, operator and Triton kernel against torch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mammoth_compiled.kernels.relu_pool import MAX_WINDOW_SIZE, op, reference, relu_pool

TILES = ((2, 2), (2, 2), (0, 0))
STEM = ((3, 3), (2, 2), (1, 1))


def operator(z, window, stride=None, padding=(0, 0)):
    return op.relu_pool_op(z, window, stride or window, padding)[0]


def gradient_of(function, z, *pool):
    """(value, gradient) for the output gradient 1, 2, 3..."""
    x = z.clone().requires_grad_()
    y = function(x, *pool)
    y.backward(torch.arange(1.0, y.numel() + 1, dtype=z.dtype, device=z.device).view(y.shape))
    return y.detach(), x.grad


def torch_forward(z, window, stride=None, padding=(0, 0)):
    return F.max_pool2d(F.relu(z), window, stride, padding)


def assert_equal(one, other):
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@st.composite
def problems(draw, overlapping=True):
    """(z, (window, stride, padding)); few distinct values make ties, of which the first wins."""
    window = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    stride, padding = window, (0, 0)
    if overlapping and draw(st.booleans()):
        stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
        padding = tuple(draw(st.integers(0, k // 2)) for k in window)
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 5)))
    shape += tuple(draw(st.integers(k, 9)) for k in window)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    if draw(st.booleans()):
        z = torch.randint(-1, 3, shape, generator=generator).float()
    else:
        z = torch.randn(shape, generator=generator)
    if draw(st.booleans()):
        z = z.contiguous(memory_format=torch.channels_last)
    return z, (window, stride, padding)


@settings(max_examples=60)
@given(problems(overlapping=False))
def test_function_equals_torch(problem):
    z, (window, _, _) = problem
    assert_equal(gradient_of(relu_pool, z, window), gradient_of(torch_forward, z, window))


@settings(max_examples=60)
@given(problems())
def test_operator_equals_torch(problem):
    z, pool = problem
    value, grad = gradient_of(operator, z, *pool)
    expected, expected_grad = gradient_of(torch_forward, z, *pool)
    assert_equal([value], [expected])
    torch.testing.assert_close(grad, expected_grad)


@settings(max_examples=40)
@given(problem=problems(), dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
@pytest.mark.usefixtures("triton_kernels")
def test_kernel_equals_reference(device, problem, dtype):
    from mammoth_compiled.kernels.relu_pool import triton

    z, pool = problem
    z = z.to(device, dtype).contiguous(memory_format=torch.channels_last)
    value, argmax = triton.forward(z, *pool)
    expected, expected_argmax = reference.forward(z, *pool)
    assert_equal([value, argmax.to(dtype)], [expected, expected_argmax])
    assert argmax.dtype == torch.int8
    assert value.is_contiguous(memory_format=torch.channels_last)
    grad = torch.randn_like(value)
    result = triton.backward(grad, argmax, tuple(z.shape[2:]), *pool)
    expected = reference.backward(grad, argmax, tuple(z.shape[2:]), *pool)
    torch.testing.assert_close(result, expected)
    assert torch.equal(result, triton.backward(grad, argmax, tuple(z.shape[2:]), *pool))


@pytest.mark.usefixtures("triton_kernels")
@pytest.mark.parametrize("pool", [TILES, STEM])
def test_kernel_with_nan_and_dead_windows(device, pool):
    from mammoth_compiled.kernels.relu_pool import triton

    z = -torch.rand(2, 3, 6, 6, device=device)
    z[0, 0, 1, 1] = float("nan")
    z[1, 2, 4:, 4:] = float("-inf")
    z = z.contiguous(memory_format=torch.channels_last)
    value, argmax = triton.forward(z, *pool)
    assert_equal([value], [torch_forward(z, *pool)])
    assert (argmax == pool[0][0] * pool[0][1]).all()
    assert not triton.backward(value.nan_to_num(1), argmax, (6, 6), *pool).any()


def test_pool_then_relu_is_the_same():
    z = torch.randn(2, 3, 6, 4)
    assert torch.equal(relu_pool(z, (2, 2)), F.relu(F.max_pool2d(z, 2)))


@pytest.mark.parametrize("function", [relu_pool, operator])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes(function, dtype):
    z = torch.randn(2, 3, 4, 4).to(dtype)
    value, grad = gradient_of(function, z, (2, 2))
    assert value.dtype == grad.dtype == dtype
    assert_equal((value, grad), gradient_of(torch_forward, z, (2, 2)))


@pytest.mark.parametrize("function", [relu_pool, operator])
def test_result_is_channels_last(function):
    z = torch.randn(2, 4, 6, 6).contiguous(memory_format=torch.channels_last)
    assert function(z, (2, 2)).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("function", [relu_pool, operator])
def test_largest_window(function):
    # The argmax is stored as int8 or bfloat16.
    height, width = 9, 14
    assert height * width == MAX_WINDOW_SIZE
    for argmax in (0, 63, 64, MAX_WINDOW_SIZE - 1):
        z = torch.zeros(1, 1, height, width)
        z.view(-1)[argmax] = 1.0
        window = (height, width)
        assert_equal(gradient_of(function, z, window), gradient_of(torch_forward, z, window))


def test_gradcheck():
    z = torch.randn(1, 2, 4, 6, dtype=torch.float64).mul(3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: relu_pool(x, (2, 3)), z)
    assert torch.autograd.gradcheck(lambda x: operator(x, *STEM), z)


@pytest.mark.parametrize("pool", [TILES, STEM])
def test_opcheck(device, pool):
    z = torch.randn(2, 3, 6, 7, device=device, requires_grad=True)
    torch.library.opcheck(op.relu_pool_op, (z, *pool))
    grad, argmax = op.relu_pool_op(z.detach(), *pool)
    torch.library.opcheck(op.relu_pool_backward_op, (grad, argmax, (6, 7), *pool))
