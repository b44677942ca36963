"""A GPU on paper, and graphs as torch.export makes them."""

import pytest
import torch
from gpu_on_paper import Gpu
from torch.export import Dim

from mammoth_compiled.compiler import autotune
from mammoth_compiled.kernels.attention import cases as attention_cases
from mammoth_compiled.kernels.attention import op as attention_op
from mammoth_compiled.kernels.runtime import device as kernel_device


@pytest.fixture
def gpu(monkeypatch):
    """A GPU for graphs only; see `gpu_on_paper`."""
    gpu = Gpu()
    # Strict float32 has no kernel for attention. For the kernels only: on some CPUs the setting of
    # torch changes the numbers, too.
    monkeypatch.setattr(attention_op, "input_precision", gpu.input_precision)
    monkeypatch.setattr(attention_cases, "input_precision", gpu.input_precision)
    monkeypatch.setattr(kernel_device, "supports_triton", lambda device: device.type == "cuda")
    monkeypatch.setattr(autotune, "fastest", gpu.fastest)
    return gpu


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
