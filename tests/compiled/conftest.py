"""A GPU on paper, and graphs as torch.export makes them."""

import pytest
import torch
from gpu_on_paper import Gpu
from torch.export import Dim

from mammoth_compiled.compiler import autotune
from mammoth_compiled.kernels.runtime import device as kernel_device


@pytest.fixture
def gpu(monkeypatch):
    """A GPU for graphs only; see `gpu_on_paper`."""
    gpu = Gpu()
    # Attention has no kernel for strict float32.
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    monkeypatch.setattr(kernel_device, "supports_triton", lambda device: device.type == "cuda")
    monkeypatch.setattr(autotune, "fastest", gpu.fastest)
    yield gpu
    torch.set_float32_matmul_precision(before)


@pytest.fixture
def exported():
    """Returns a function that captures a net in eval mode, for any batch if it takes any."""

    def capture(net, images):
        with torch.no_grad():
            program = torch.export.export(
                net.eval(), (images,), dynamic_shapes=({0: Dim.AUTO},), strict=False
            )
        return program.module()

    return capture
