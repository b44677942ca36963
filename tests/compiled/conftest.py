"""A fake GPU, and graphs of torch.export."""

import pytest
import torch
from fake_gpu import Gpu
from torch.export import Dim

from mammoth_compiled.compiler import autotune
from mammoth_compiled.kernels.attention import cases as attention_cases
from mammoth_compiled.kernels.attention import op as attention_op
from mammoth_compiled.kernels.runtime import device as kernel_device


@pytest.fixture
def gpu(monkeypatch):
    """A fake GPU; see `fake_gpu`."""
    gpu = Gpu()
    # Attention has no kernel for strict float32. The setting of torch would also change results on
    # some CPUs.
    monkeypatch.setattr(attention_op, "input_precision", gpu.input_precision)
    monkeypatch.setattr(attention_cases, "input_precision", gpu.input_precision)
    monkeypatch.setattr(kernel_device, "supports_triton", lambda device: device.type == "cuda")
    monkeypatch.setattr(autotune, "fastest", gpu.fastest)
    return gpu


@pytest.fixture
def exported():
    """Returns a function that exports a net in eval mode with a dynamic batch."""

    def capture(net, images):
        with torch.no_grad():
            program = torch.export.export(
                net.eval(), (images,), dynamic_shapes=({0: Dim.AUTO},), strict=False
            )
        return program.module()

    return capture
