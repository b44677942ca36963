"""Convolution, relu and pooling in C++, direct and by Winograd, against the reference."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mammoth_compiled.kernels import conv_relu_pool as op
from mammoth_compiled.kernels.cpu import convolution as cpu

pytestmark = pytest.mark.usefixtures("cpp_kernels")

CHANNELS_LAST = torch.channels_last


def images(*shape, make=torch.randn):
    return make(*shape).contiguous(memory_format=CHANNELS_LAST)


@st.composite
def whole_numbers(draw):
    """(x, weight, bias) of small whole numbers: every sum is exact, and there are ties."""
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
    y, winner = cpu.conv_relu_pool(x, weight, bias)
    expected, expected_winner = op.reference(x, weight, bias)
    assert torch.equal(y, expected)
    assert torch.equal(winner, expected_winner)
    assert y.is_contiguous(memory_format=CHANNELS_LAST)
    assert winner.dtype == torch.int8

    grad = images(*y.shape, make=lambda *shape: torch.randint(-3, 4, shape).float())
    size = tuple(x.shape[2:])
    grad_x = cpu.pooled_input_grad(grad, winner, weight, size)
    assert torch.equal(grad_x, op.reference_input_grad(grad, winner, weight, size))
    assert grad_x.is_contiguous(memory_format=CHANNELS_LAST)
    grads = cpu.pooled_weight_grad(grad, winner, x, weight)
    for mine, theirs in zip(grads, op.reference_weight_grad(grad, winner, x, weight), strict=True):
        assert torch.equal(mine, theirs)
    assert grads[0].stride() == torch.empty_like(weight).stride()


@pytest.mark.parametrize("inputs", [3, 32, 64])
def test_as_exact_as_torch(assert_as_exact, inputs):
    x, weight, bias = images(8, inputs, 17, 16), torch.randn(64, inputs, 3, 3), torch.randn(64)
    y, winner = cpu.conv_relu_pool(x, weight, bias)
    exact = op.reference(x.double(), weight.double(), bias.double())[0]
    assert_as_exact(y, exact, op.reference(x, weight, bias)[0], factor=2)

    grad = images(*y.shape)
    wide = grad.double(), winner, weight.double(), (17, 16)
    exact = op.reference_input_grad(*wide)
    torchs = op.reference_input_grad(grad, winner, weight, (17, 16))
    assert_as_exact(cpu.pooled_input_grad(grad, winner, weight, (17, 16)), exact, torchs, factor=3)
    exact = op.reference_weight_grad(grad.double(), winner, x.double(), weight.double())
    torchs = op.reference_weight_grad(grad, winner, x, weight)
    ours = cpu.pooled_weight_grad(grad, winner, x, weight)
    for mine, true, theirs in zip(ours, exact, torchs, strict=True):
        assert_as_exact(mine, true, theirs, factor=3)


@pytest.mark.parametrize("inputs", [3, 40])
def test_the_same_in_any_number_of_threads(with_threads, inputs):
    x, weight, bias = images(11, inputs, 12, 14), torch.randn(40, inputs, 3, 3), torch.randn(40)
    grad = images(11, 40, 6, 7)

    def run():
        y, winner = cpu.conv_relu_pool(x, weight, bias)
        grads = cpu.pooled_weight_grad(grad, winner, x, weight)
        return y, winner, cpu.pooled_input_grad(grad, winner, weight, (12, 14)), *grads

    one, *others = (with_threads(n, run) for n in (1, 1, 2, 3, 5))
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("inputs", [3, 16])
def test_ties_nan_and_dead_windows(inputs):
    x = images(2, inputs, 4, 4, make=torch.zeros)
    x[1, 0, 1, 1] = float("nan")
    weight, bias = torch.randn(20, inputs, 3, 3), torch.linspace(-1, 1, 20)
    y, winner = cpu.conv_relu_pool(x, weight, bias)
    expected, expected_winner = op.reference(x, weight, bias)
    torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(winner, expected_winner)
    # All pixels of the first image are equal: the first wins where bias lifts it above 0.
    assert torch.equal(winner[0, :, 0, 0], torch.tensor([4] * 10 + [0] * 10, dtype=torch.int8))
    assert y[1].isnan().all()  # each window reads the pixel
    dead = torch.full_like(winner, 4)
    grad = torch.full_like(y, float("nan"))  # a dead window's gradient is not looked at
    assert not cpu.pooled_input_grad(grad, dead, weight, (4, 4)).any()
    assert not any(g.any() for g in cpu.pooled_weight_grad(grad, dead, x.nan_to_num(), weight))


@pytest.mark.parametrize("inputs", [3, 16])
def test_a_bias_with_gaps(inputs):
    x, weight, bias = images(2, inputs, 4, 4), torch.randn(20, inputs, 3, 3), torch.randn(40)[::2]
    torch.testing.assert_close(cpu.conv_relu_pool(x, weight, bias)[0], torchs(x, weight, bias))


def test_without_images():
    x, weight = torch.empty(0, 3, 4, 4), torch.randn(16, 3, 3, 3)
    y, winner = cpu.conv_relu_pool(x, weight, None)
    assert y.shape == winner.shape == (0, 16, 2, 2)
    assert cpu.pooled_input_grad(y, winner, weight, (4, 4)).shape == x.shape
    assert not any(g.any() for g in cpu.pooled_weight_grad(y, winner, x, weight))


def torchs(x, weight, bias=None):
    return F.max_pool2d(F.relu(F.conv2d(x, weight, bias, padding=1)), 2)


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_of_the_operator(bias):
    leaves = [torch.randn(2, 5, 6, 7), torch.randn(16, 5, 3, 3)]
    leaves = [leaf.requires_grad_() for leaf in [*leaves, torch.randn(16)][: 2 + bias]]
    grad = torch.randn(2, 16, 3, 3)
    y = op.conv_relu_pool_cpu_op(*leaves, *[None] * (not bias))[0]
    torch.testing.assert_close(y, torchs(*leaves))
    torch.testing.assert_close(
        torch.autograd.grad(y, leaves, grad), torch.autograd.grad(torchs(*leaves), leaves, grad)
    )


def test_opcheck():
    x, weight = images(2, 5, 6, 7).requires_grad_(), torch.randn(16, 5, 3, 3, requires_grad=True)
    torch.library.opcheck(op.conv_relu_pool_cpu_op, (x, weight, torch.randn(16)))
    x, weight = x.detach(), weight.detach()
    y, winner = op.conv_relu_pool_cpu_op(x, weight, None)
    torch.library.opcheck(op.input_grad_cpu_op, (y, winner, weight, (6, 7)))
    torch.library.opcheck(op.weight_grad_cpu_op, (y, winner, x, weight))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_the_references(dtype):
    x, weight = images(2, 3, 4, 4).to(dtype), torch.randn(16, 3, 3, 3).to(dtype)
    for mine, expected in zip(
        op.conv_relu_pool_cpu_op(x, weight, None), op.reference(x, weight, None), strict=True
    ):
        assert torch.equal(mine, expected)
