"""The one definition of the hardware that tests need, and why they are skipped without it.

Imported before Triton is: without a GPU its kernels run in the interpreter.
"""

import os

import pytest
import torch

# A GPU that the Triton kernels support; tests treat any other as if there were none.
HAS_GPU = (
    torch.cuda.is_available()
    and torch.version.hip is None
    and torch.cuda.get_device_capability() >= (8, 0)
)
# Where kernels run in tests.
DEVICE = torch.device("cuda" if HAS_GPU else "cpu")

os.environ.setdefault("TRITON_INTERPRET", "0" if HAS_GPU else "1")
# The wrapper code of AOTInductor compiles faster, and its speed does not matter here.
os.environ.setdefault("AOT_INDUCTOR_COMPILE_WRAPPER_OPT_LEVEL", "O0")


def skip_without_triton():
    """Skips the test where Triton is not installed."""
    from mammoth_compiled.kernels.runtime.device import has_triton

    if not has_triton():
        pytest.skip("Triton is not installed")


def skip_without_cpp_kernels():
    """Skips the test on a processor without C++ kernels; fails it if they do not build."""
    from mammoth_compiled.kernels.runtime import cpp_library

    reason = cpp_library.unavailable_reason()
    if " need " in reason:
        pytest.skip(reason)
    assert not reason
