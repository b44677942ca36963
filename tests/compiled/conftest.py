"""A GPU on paper, and graphs as torch.export makes them."""

import pytest
import torch
from gpu_on_paper import Gpu
from torch.export import Dim

from mammoth_compiled.compiler import dispatch
from mammoth_compiled.kernels import launch


@pytest.fixture
def gpu(monkeypatch):
    """A GPU for graphs only; see `gpu_on_paper`."""
    gpu = Gpu()
    monkeypatch.setattr(launch, "supports", lambda device: device.type == "cuda")
    monkeypatch.setattr(dispatch, "fastest", gpu.fastest)
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
