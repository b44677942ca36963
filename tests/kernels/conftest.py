"""How kernels are tested: on a GPU if there is one, else in Triton's interpreter on the CPU."""

import ctypes
import os

import pytest
import torch

from mammoth_compiled.kernels.runtime import cpp_library
from mammoth_compiled.kernels.runtime.device import has_triton

# A library that was built with sanitizers, see .ci/run.
if _path := os.environ.get("MAMMOTH_TEST_KERNELS"):
    _sanitized = ctypes.CDLL(_path)
    cpp_library._library = lambda: _sanitized


@pytest.fixture(scope="session")
def device():
    """Where the kernels run in the tests."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="session")
def triton_kernels():
    """Skips a test where Triton is not installed."""
    if not has_triton():
        pytest.skip("Triton is not installed")


@pytest.fixture(scope="session")
def cpp_kernels():
    """Skips a test on a processor without C++ kernels; fails it if they do not build."""
    reason = cpp_library.unavailable_reason()
    if " need " in reason:
        pytest.skip(reason)
    assert not reason


@pytest.fixture
def with_threads():
    """Returns a function that calls another with so many threads of torch."""
    before = torch.get_num_threads()

    def run(count, function):
        torch.set_num_threads(count)
        return function()

    yield run
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def looping_kernels(triton_kernels, device):
    """Skips where Triton's interpreter cannot count to a number known only at run time.

    That of Triton 3.6 cannot: it makes a number of an array, of which numpy warns since 1.25 and
    which it refuses since 2.4.
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
def assert_as_exact():
    """Returns a check: the error against float64 is at most `factor` times torch's own.

    `torch_result` is what torch computes in the kernel's dtype. The rule is that of the tests of
    flash-attention; one unit in the last place of the largest value is always allowed.
    """

    def check(result, exact, torch_result, factor=2):
        assert result.dtype == torch_result.dtype
        assert result.shape == exact.shape
        exact = exact.to(result.device)
        error = (result.double() - exact).abs().max()
        allowed = factor * (torch_result.double().to(result.device) - exact).abs().max()
        unit = torch.finfo(result.dtype).eps * exact.abs().max()
        assert error <= allowed + unit, f"error {error:.3g}, torch's own {allowed / factor:.3g}"

    return check
