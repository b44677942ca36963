"""3x3 convolution in C++ against torch: values, gradients, layouts, threads, fallbacks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mammoth_compiled.kernels.conv3x3 import cpp, op, reference
from mammoth_compiled.kernels.conv_relu_pool import cpp as pooled_cpp
from mammoth_compiled.kernels.runtime import cpp_library

pytestmark = pytest.mark.usefixtures("cpp_kernels")

CHANNELS_LAST = torch.channels_last


@st.composite
def problems(draw):
    """(x, weight, bias, grad): full and partial vectors, several blocks, odd sizes, layouts."""
    batch = draw(st.integers(1, 3))
    channels = st.sampled_from([1, 3, 8, 16, 17, 33, 64, 70, 130])
    inputs, outputs = draw(channels), draw(channels)
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    shapes = [(batch, n, height, width) for n in (inputs, outputs)]
    shapes = shapes[0], (outputs, inputs, 3, 3), (outputs,), shapes[1]
    if draw(st.booleans()):
        made = [torch.randint(-3, 4, shape, generator=generator).float() for shape in shapes]
    else:
        made = [torch.randn(shape, generator=generator) for shape in shapes]
    x, weight, bias, grad = made
    x, grad = (t.contiguous(memory_format=CHANNELS_LAST) for t in (x, grad))
    layout = draw(st.sampled_from(["contiguous_format", "channels_last", "gaps"]))
    if layout == "gaps":
        weight = F.pad(weight, (0, 1))[..., :3]
    else:
        weight = weight.contiguous(memory_format=getattr(torch, layout))
    return x, weight, bias if draw(st.booleans()) else None, grad


def results(module, x, weight, bias, grad):
    """[value, gradient of x, gradient of weight] from three functions."""
    forward, input_grad, weight_grad = module
    return [forward(x, weight, bias), input_grad(grad, weight), weight_grad(grad, x, weight)]


CPP = cpp.forward, cpp.input_grad, cpp.weight_grad
REFERENCE = reference.forward, reference.input_grad, reference.weight_grad


@pytest.mark.parametrize(
    "shape", [(8, 32, 64, 16), (4, 64, 33, 15), (16, 128, 128, 8), (32, 256, 64, 4)]
)
def test_kernels_are_as_accurate_as_torch(assert_as_accurate, shape):
    batch, inputs, outputs, size = shape
    x, grad = (
        torch.randn(batch, n, size, size).contiguous(memory_format=CHANNELS_LAST)
        for n in (inputs, outputs)
    )
    problem = x, torch.randn(outputs, inputs, 3, 3), torch.randn(outputs), grad
    exact = results(REFERENCE, *(t.double() for t in problem))
    torch_forward = results(REFERENCE, *problem)
    ours = results(CPP, *problem)
    for factor, mine, true, theirs in zip((2, 3, 3), ours, exact, torch_forward, strict=True):
        assert_as_accurate(mine, true, theirs, factor=factor)


@settings(max_examples=60, deadline=None)
@given(problem=problems())
def test_errors_are_bounded_by_the_rounding_within_a_tile(problem):
    # A sum of few numbers is nearly exact in torch, while the transforms first mix those of a tile.
    exact = results(REFERENCE, *(None if t is None else t.double() for t in problem))
    ours = results(CPP, *problem)
    x, weight, bias, grad = (torch.zeros(1) if t is None else t.abs() for t in problem)
    mixed = [
        x.max() * weight.sum((1, 2, 3)).max() + bias.max(),
        grad.max() * weight.sum((0, 2, 3)).max(),
        x.max() * grad.sum((0, 2, 3)).max(),
    ]
    for mine, true, most in zip(ours, exact, mixed, strict=True):
        assert (mine.double() - true).abs().max() <= torch.finfo(torch.float32).eps * most
        assert mine.shape == true.shape
    assert all(images.is_contiguous(memory_format=CHANNELS_LAST) for images in ours[:2])
    assert ours[2].stride() == torch.empty_like(problem[1]).stride()


@settings(max_examples=30, deadline=None)
@given(problem=problems())
def test_sums_of_small_numbers_are_exact(problem):
    # The transforms halve twice, so that sums of multiples of 1/8 are exact.
    problem = [None if t is None else (4 * t).round().clamp(-12, 12) / 4 for t in problem]
    for mine, theirs in zip(results(CPP, *problem), results(REFERENCE, *problem), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("shape", [(9, 40, 21, 20), (4, 96, 7, 7), (3, 33, 40, 40)])
def test_results_do_not_depend_on_the_number_of_threads(with_threads, shape):
    batch, channels, height, width = shape
    x, grad = (
        torch.randn(batch, n, height, width).contiguous(memory_format=CHANNELS_LAST)
        for n in (channels, 48)
    )
    weight, bias = torch.randn(48, channels, 3, 3), torch.randn(48)
    one, *others = (
        with_threads(n, lambda: results(CPP, x, weight, bias, grad)) for n in (1, 1, 2, 3, 5)
    )
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_gradients_of_the_operator():
    x = torch.randn(2, 5, 4, 3, requires_grad=True)
    weight = torch.randn(7, 5, 3, 3, requires_grad=True)
    bias = torch.randn(7, requires_grad=True)
    grad = torch.randn(2, 7, 4, 3)
    ours = torch.autograd.grad(op.conv3x3(x, weight, bias), (x, weight, bias), grad)
    torch_forward = torch.autograd.grad(
        F.conv2d(x, weight, bias, padding=1), (x, weight, bias), grad
    )
    torch.testing.assert_close(ours, torch_forward)


@pytest.mark.parametrize("bias", [True, False])
def test_opcheck(bias):
    x = torch.randn(2, 5, 4, 3).contiguous(memory_format=CHANNELS_LAST).requires_grad_()
    weight = torch.randn(7, 5, 3, 3, requires_grad=True)
    b = torch.randn(7, requires_grad=True) if bias else None
    torch.library.opcheck(op.conv3x3_op, (x, weight, b))
    grad = torch.randn(2, 7, 4, 3)
    torch.library.opcheck(op.input_grad_op, (grad, weight.detach()))
    torch.library.opcheck(op.weight_grad_op, (grad, x.detach(), weight.detach()))


def test_gradcheck_of_the_reference():
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(op.conv3x3, (x, weight, bias))


def test_strided_bias():
    x, weight, bias = torch.randn(2, 5, 4, 3), torch.randn(7, 5, 3, 3), torch.randn(14)[::2]
    torch.testing.assert_close(op.conv3x3(x, weight, bias), F.conv2d(x, weight, bias, padding=1))


@pytest.mark.parametrize(
    ("weight", "bias", "message"),
    [
        (torch.ones(7, 5, 5, 5), None, r"\[7, 5, 5, 5\]; .* need torch.float32 \[Cout, 4, 3, 3\]"),
        (torch.ones(7, 4, 3, 3).double(), None, "the weight is torch.float64 .* of 4 channels"),
        (torch.ones(7, 4, 3, 3), torch.ones(6), r"the bias is .* \[6\]; .* torch.float32 \[7\]"),
        (torch.ones(7, 4, 3, 3), torch.ones(7).double(), "the bias is torch.float64"),
    ],
    ids=["shape", "dtype", "bias shape", "bias dtype"],
)
@pytest.mark.parametrize("function", [cpp.forward, pooled_cpp.forward])
def test_invalid_weight_or_bias_raises(function, weight, bias, message):
    with pytest.raises(ValueError, match=message):
        function(torch.ones(1, 4, 4, 4), weight, bias)


def test_empty_batch():
    x, grad = torch.empty(0, 5, 4, 4), torch.empty(0, 7, 4, 4)
    weight = torch.randn(7, 5, 3, 3)
    assert op.conv3x3(x, weight).shape == (0, 7, 4, 4)
    assert op.input_grad_op(grad, weight).shape == x.shape
    assert not op.weight_grad_op(grad, x, weight).any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_fall_back_to_the_reference(dtype):
    x = torch.randn(2, 3, 4, 4).to(dtype).contiguous(memory_format=CHANNELS_LAST)
    weight = torch.randn(5, 3, 3, 3).to(dtype)
    assert torch.equal(op.conv3x3(x, weight), reference.forward(x, weight, None))


def test_non_finite_pixel_stays_within_its_tiles():
    x = torch.zeros(2, 32, 8, 8).contiguous(memory_format=CHANNELS_LAST)
    x[0, 3, 4, 4] = float("inf")
    y = op.conv3x3(x, torch.ones(32, 32, 3, 3))
    finite = y.isfinite()
    # Rows 3 to 5 depend on it, which belong to the tiles of rows 2 to 5.
    assert not finite[0, :, 3:6, 3:6].any()
    assert finite[0, :, :2].all()
    assert finite[0, :, 6:].all()
    assert finite[1].all()


@pytest.fixture
def uncached_reason():
    cpp_library.unavailable_reason.cache_clear()
    yield
    cpp_library.unavailable_reason.cache_clear()


@pytest.mark.usefixtures("uncached_reason")
class TestMachinesWithoutKernels:
    def test_other_processor(self, monkeypatch):
        monkeypatch.setattr(cpp_library.platform, "machine", lambda: "aarch64")
        assert cpp_library.unavailable_reason() == "the C++ kernels need an x86-64 processor"

    def test_old_processor(self, monkeypatch):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
        assert cpp_library.unavailable_reason() == "the C++ kernels need AVX2 or AVX-512"

    def test_no_compiler(self, monkeypatch):
        def fail():
            raise RuntimeError("no compiler\nand more lines")

        monkeypatch.setattr(cpp_library, "_library", fail)
        x, weight = torch.randn(2, 3, 4, 4), torch.randn(5, 3, 3, 3)
        with pytest.warns(
            UserWarning, match="could not be built, so torch computes .*: no compiler$"
        ):
            y = op.conv3x3(x, weight)
        assert torch.equal(y, F.conv2d(x, weight, padding=1))
        assert torch.equal(op.conv3x3(x, weight), y)  # without another warning
        assert cpp_library.unavailable_reason() == "the C++ kernels could not be built"


def test_failed_allocation_raises(monkeypatch):
    class Refusing:
        def __call__(self, *_):
            return False

    class Library:
        conv3x3 = Refusing()

    monkeypatch.setattr(cpp_library, "_library", Library)
    with pytest.raises(
        MemoryError, match=r"conv3x3: cannot allocate the working memory .*; lower the batch"
    ):
        cpp.forward(torch.randn(1, 3, 4, 4), torch.randn(5, 3, 3, 3), None)


AVX2 = """
import torch
from mammoth_compiled.kernels.conv3x3 import cpp, reference
from mammoth_compiled.kernels.conv_relu_pool import cpp as pooled_cpp, reference as pooled
from mammoth_compiled.kernels.runtime import cpp_library
assert torch.backends.cpu.get_cpu_capability() == "AVX2"
assert not cpp_library.unavailable_reason()
for channels, filters in ((3, 20), (33, 70)):
    x, grad = (
        torch.randint(-3, 4, (3, n, 9, 10)).float().contiguous(memory_format=torch.channels_last)
        for n in (channels, filters)
    )
    weight, bias = torch.randint(-3, 4, (filters, channels, 3, 3)).float(), torch.ones(filters)
    assert torch.equal(cpp.forward(x, weight, bias), reference.forward(x, weight, bias))
    assert torch.equal(cpp.input_grad(grad, weight), reference.input_grad(grad, weight))
    assert torch.equal(cpp.weight_grad(grad, x, weight), reference.weight_grad(grad, x, weight))
    y, argmax = pooled_cpp.forward(x, weight, bias)
    expected = pooled.forward(x, weight, bias)
    assert torch.equal(y, expected[0]) and torch.equal(argmax, expected[1])
    ours = pooled_cpp.weight_grad(y, argmax, x, weight)
    expected = pooled.weight_grad(y, argmax, x, weight)
    assert torch.equal(ours[0], expected[0]) and torch.equal(ours[1], expected[1])
    assert torch.equal(
        pooled_cpp.input_grad(y, argmax, weight, (9, 10)),
        pooled.input_grad(y, argmax, weight, (9, 10)),
    )
"""


@pytest.mark.slow
def test_processor_without_avx512(run_python):
    done = run_python("-c", AVX2, ATEN_CPU_CAPABILITY="avx2")
    assert done.returncode == 0, done.stderr
