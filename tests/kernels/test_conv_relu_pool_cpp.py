"""Convolution, ReLU and pooling in C++, direct and by Winograd, against the reference."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mammoth_compiled.kernels.conv_relu_pool import cpp, op, reference

pytestmark = pytest.mark.usefixtures("cpp_kernels")

CHANNELS_LAST = torch.channels_last


def images(*shape, make=torch.randn):
    return make(*shape).contiguous(memory_format=CHANNELS_LAST)


@st.composite
def whole_numbers(draw):
    """(x, weight, bias) of small integers: every sum is exact, and there are ties."""
    batch = draw(st.integers(1, 9))
    inputs = draw(st.sampled_from([1, 2, 3, 5, 15, 16, 20, 33, 90]))
    outputs = draw(st.sampled_from([1, 5, 16, 31, 33, 48, 70]))
    height, width = draw(st.integers(2, 9)), draw(st.integers(2, 17))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    shapes = (batch, inputs, height, width), (outputs, inputs, 3, 3), (outputs,)
    x, weight, bias = (torch.randint(-2, 3, s, generator=generator).float() for s in shapes)
    layout = draw(st.sampled_from(["contiguous_format", "channels_last", "gaps"]))
    if layout == "gaps":
        weight = F.pad(weight, (0, 1))[..., :3]
    else:
        weight = weight.contiguous(memory_format=getattr(torch, layout))
    x = x.contiguous(memory_format=CHANNELS_LAST)
    return x, weight, bias if draw(st.booleans()) else None


@settings(max_examples=60, deadline=None)
@given(whole_numbers())
def test_equals_the_reference(problem):
    x, weight, bias = problem
    y, argmax = cpp.forward(x, weight, bias)
    expected, expected_argmax = reference.forward(x, weight, bias)
    assert torch.equal(y, expected)
    assert torch.equal(argmax, expected_argmax)
    assert y.is_contiguous(memory_format=CHANNELS_LAST)
    assert argmax.dtype == torch.int8

    grad = images(*y.shape, make=lambda *shape: torch.randint(-3, 4, shape).float())
    size = tuple(x.shape[2:])
    grad_x = cpp.input_grad(grad, argmax, weight, size)
    assert torch.equal(grad_x, reference.input_grad(grad, argmax, weight, size))
    assert grad_x.is_contiguous(memory_format=CHANNELS_LAST)
    grads = cpp.weight_grad(grad, argmax, x, weight)
    for mine, theirs in zip(grads, reference.weight_grad(grad, argmax, x, weight), strict=True):
        assert torch.equal(mine, theirs)
    assert grads[0].stride() == torch.empty_like(weight).stride()


@pytest.mark.parametrize("inputs", [3, 32, 64])
def test_kernels_are_as_accurate_as_torch(assert_as_accurate, inputs):
    x, weight, bias = images(8, inputs, 17, 16), torch.randn(64, inputs, 3, 3), torch.randn(64)
    y, argmax = cpp.forward(x, weight, bias)
    exact = reference.forward(x.double(), weight.double(), bias.double())[0]
    assert_as_accurate(y, exact, reference.forward(x, weight, bias)[0], factor=2)

    grad = images(*y.shape)
    wide = grad.double(), argmax, weight.double(), (17, 16)
    exact = reference.input_grad(*wide)
    torch_forward = reference.input_grad(grad, argmax, weight, (17, 16))
    assert_as_accurate(
        cpp.input_grad(grad, argmax, weight, (17, 16)), exact, torch_forward, factor=3
    )
    exact = reference.weight_grad(grad.double(), argmax, x.double(), weight.double())
    torch_forward = reference.weight_grad(grad, argmax, x, weight)
    ours = cpp.weight_grad(grad, argmax, x, weight)
    for mine, true, theirs in zip(ours, exact, torch_forward, strict=True):
        assert_as_accurate(mine, true, theirs, factor=3)


@pytest.mark.parametrize("inputs", [3, 40])
def test_results_do_not_depend_on_the_number_of_threads(with_threads, inputs):
    x, weight, bias = images(11, inputs, 12, 14), torch.randn(40, inputs, 3, 3), torch.randn(40)
    grad = images(11, 40, 6, 7)

    def run():
        y, argmax = cpp.forward(x, weight, bias)
        grads = cpp.weight_grad(grad, argmax, x, weight)
        return y, argmax, cpp.input_grad(grad, argmax, weight, (12, 14)), *grads

    one, *others = (with_threads(n, run) for n in (1, 1, 2, 3, 5))
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("inputs", [3, 16])
def test_ties_nan_and_dead_windows(inputs):
    x = images(2, inputs, 4, 4, make=torch.zeros)
    x[1, 0, 1, 1] = float("nan")
    weight, bias = torch.randn(20, inputs, 3, 3), torch.linspace(-1, 1, 20)
    y, argmax = cpp.forward(x, weight, bias)
    expected, expected_argmax = reference.forward(x, weight, bias)
    torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(argmax, expected_argmax)
    # All pixels of the first image are equal: the first wins if the bias makes it positive.
    assert torch.equal(argmax[0, :, 0, 0], torch.tensor([4] * 10 + [0] * 10, dtype=torch.int8))
    assert y[1].isnan().all()  # each window reads the pixel
    dead = torch.full_like(argmax, 4)
    grad = torch.full_like(y, float("nan"))  # the gradient of a dead window is ignored
    assert not cpp.input_grad(grad, dead, weight, (4, 4)).any()
    assert not any(g.any() for g in cpp.weight_grad(grad, dead, x.nan_to_num(), weight))


@pytest.mark.parametrize("inputs", [3, 16])
def test_strided_bias(inputs):
    x, weight, bias = images(2, inputs, 4, 4), torch.randn(20, inputs, 3, 3), torch.randn(40)[::2]
    torch.testing.assert_close(cpp.forward(x, weight, bias)[0], torch_forward(x, weight, bias))


def test_empty_batch():
    x, weight = torch.empty(0, 3, 4, 4), torch.randn(16, 3, 3, 3)
    y, argmax = cpp.forward(x, weight, None)
    assert y.shape == argmax.shape == (0, 16, 2, 2)
    assert cpp.input_grad(y, argmax, weight, (4, 4)).shape == x.shape
    assert not any(g.any() for g in cpp.weight_grad(y, argmax, x, weight))


def torch_forward(x, weight, bias=None):
    return F.max_pool2d(F.relu(F.conv2d(x, weight, bias, padding=1)), 2)


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_of_the_operator(bias):
    leaves = [torch.randn(2, 5, 6, 7), torch.randn(16, 5, 3, 3)]
    leaves = [leaf.requires_grad_() for leaf in [*leaves, torch.randn(16)][: 2 + bias]]
    grad = torch.randn(2, 16, 3, 3)
    y = op.conv_relu_pool_cpp_op(*leaves, *[None] * (not bias))[0]
    torch.testing.assert_close(y, torch_forward(*leaves))
    torch.testing.assert_close(
        torch.autograd.grad(y, leaves, grad),
        torch.autograd.grad(torch_forward(*leaves), leaves, grad),
    )


def test_opcheck():
    x, weight = images(2, 5, 6, 7).requires_grad_(), torch.randn(16, 5, 3, 3, requires_grad=True)
    torch.library.opcheck(op.conv_relu_pool_cpp_op, (x, weight, torch.randn(16)))
    x, weight = x.detach(), weight.detach()
    y, argmax = op.conv_relu_pool_cpp_op(x, weight, None)
    torch.library.opcheck(op.input_grad_cpp_op, (y, argmax, weight, (6, 7)))
    torch.library.opcheck(op.weight_grad_cpp_op, (y, argmax, x, weight))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_fall_back_to_the_reference(dtype):
    x, weight = images(2, 3, 4, 4).to(dtype), torch.randn(16, 3, 3, 3).to(dtype)
    for mine, expected in zip(
        op.conv_relu_pool_cpp_op(x, weight, None), reference.forward(x, weight, None), strict=True
    ):
        assert torch.equal(mine, expected)
