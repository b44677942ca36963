"""Kernels are tested on a GPU if there is one, else in Triton's interpreter on the CPU."""

import ctypes
import os

import pytest
import torch
from hardware import DEVICE, skip_without_cpp_kernels, skip_without_triton

from mammoth_compiled.kernels.runtime import cpp_library

# A library built with sanitizers, see .ci/run.
if _path := os.environ.get("MAMMOTH_TEST_KERNELS"):
    _sanitized = ctypes.CDLL(_path)
    cpp_library._library = lambda: _sanitized


@pytest.fixture(scope="session")
def device():
    """The device on which kernels run in tests."""
    return DEVICE


@pytest.fixture(scope="session")
def triton_kernels():
    """Skips a test where Triton is not installed."""
    skip_without_triton()


@pytest.fixture(scope="session")
def cpp_kernels():
    """Skips a test on a processor without C++ kernels; fails it if they do not build."""
    skip_without_cpp_kernels()


@pytest.fixture
def with_threads():
    """Returns a function that calls another with a number of threads of torch."""
    before = torch.get_num_threads()

    def run(count, function):
        torch.set_num_threads(count)
        return function()

    yield run
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def looping_kernels(triton_kernels, device):
    """Skips a test where Triton's interpreter cannot loop to a bound known only at run time.

    Triton 3.6 cannot: it converts an array to a number, which numpy deprecated in 1.25 and refuses
    since 2.4.
    """
    if device.type == "cuda":
        return
    import triton
    from triton.runtime.errors import InterpreterError

    @triton.jit
    def count(bound):
        for _ in range(bound):
            pass

    try:
        count[(1,)](2)
    except InterpreterError:
        pytest.skip("this interpreter cannot loop to a bound known only at run time")


@pytest.fixture(scope="session")
def assert_as_accurate():
    """Returns a check that the error against float64 is at most `factor` times that of torch.

    `torch_result` is torch's result in the dtype of the kernel. The tests of flash-attention use
    the same rule. One unit in the last place of the largest value is always allowed, and
    `resolution` where torch is nearly exact by luck, as in sums of few terms that cancel.
    """

    def check(result, exact, torch_result, factor=2, resolution=0.0):
        assert result.dtype == torch_result.dtype
        assert result.shape == exact.shape
        exact = exact.to(result.device)
        error = (result.double() - exact).abs().max()
        allowed = factor * (torch_result.double().to(result.device) - exact).abs().max()
        unit = torch.finfo(result.dtype).eps * exact.abs().max() + resolution
        assert error <= allowed + unit, f"error {error:.3g}, torch's own {allowed / factor:.3g}"

    return check
