"""Gradients of modules that update a buffer and use it in the same forward pass."""

import pytest
import torch
from torch import nn


class Counts(nn.Module):
    """Scales by a counter that it advances."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("step", torch.zeros(()))

    def forward(self, x):
        self.step += 1
        return x * self.weight * (1 + 0.5 * self.step)


class Decays(nn.Module):
    """Multiplies by a buffer that it decays first, and again after."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("scale", torch.ones(3))

    def forward(self, x):
        self.scale.mul_(0.5)
        y = (x * self.weight * self.scale.clone()).sin()
        self.scale.mul_(0.5)
        return y


class Normalizes(nn.Module):
    """Batch norm, whose statistics do not affect its output in training mode."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x):
        return self.norm(x)


@pytest.mark.parametrize("module", [Counts, Decays, Normalizes])
def test_gradients_and_buffers_equal_eager(module):
    results = []
    for compiled in (False, True):
        torch._dynamo.reset()
        torch.manual_seed(0)
        net = module()
        function = torch.compile(net, backend="mammoth", dynamic=False) if compiled else net
        for _ in range(3):
            net.zero_grad()
            function(torch.rand(4, 3)).square().sum().backward()
        results.append({name: p.grad for name, p in net.named_parameters()} | net.state_dict())
    torch.testing.assert_close(results[1], results[0])
