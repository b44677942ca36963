"""Supported devices, precision, and the package without Triton."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mammoth_compiled.kernels.runtime import device


def test_cpu_has_no_triton_kernels():
    assert not device.supports_triton(torch.device("cpu"))
    assert "compute capability 8.0" in device.triton_why_not(torch.zeros(1))


def test_reason_names_an_unsupported_dtype(monkeypatch):
    monkeypatch.setattr(device, "supports_triton", lambda device: device.type == "cuda")
    with FakeTensorMode():
        floats, integers = torch.empty(1, device="cuda"), torch.empty(1, device="cuda").long()
    assert device.triton_why_not(floats, integers) == ""
    assert device.triton_why_not(integers) == "there is no kernel for torch.int64"
    assert device.triton_why_not(integers, any_dtype=True) == ""
    assert "compute capability" in device.triton_why_not(floats, torch.zeros(1))


@pytest.fixture
def matmul_precision():
    before = torch.get_float32_matmul_precision()
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision(before)


def test_float32_is_multiplied_as_precisely_as_by_torch(matmul_precision):
    matmul_precision("highest")
    assert device.input_precision(torch.bfloat16, convolution=True) == "ieee"
    assert device.input_precision(torch.float32, convolution=False) == "ieee"
    matmul_precision("high")
    assert device.input_precision(torch.float32, convolution=False) == "tf32"


WITHOUT_TRITON = """
import sys, warnings
warnings.simplefilter("error")
sys.modules["triton"] = None
import torch
from mammoth_compiled.kernels.runtime.device import has_triton
from mammoth_compiled.kernels.relu_pool import relu_pool_op
from mammoth_compiled.registry import backbones
import mammoth_compiled
assert not has_triton()
z = torch.randn(2, 3, 4, 4, requires_grad=True)
relu_pool_op(z, (2, 2), (2, 2), (0, 0))[0].sum().backward()
assert z.grad.any()
from mammoth_compiled.kernels import check
try:
    check.main([])
except SystemExit as stop:
    print(stop.code)
"""


def test_without_triton_references_compute(run_python):
    done = run_python("-c", WITHOUT_TRITON)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2"]
    assert "Triton is not installed: pip install triton" in done.stderr
    assert "_library/triton.py" not in done.stderr
