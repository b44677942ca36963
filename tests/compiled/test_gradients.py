"""Gradients of convolution weights come with the strides of the weights."""

import pytest
import torch
from torch import nn

from mammoth_compiled.compiler import backend


class Convolutions(nn.Module):
    """Kernels of several sizes, of which the weight of one is computed."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 5, padding=2), nn.Conv2d(4, 2, 1)
        self.middle = nn.Conv2d(4, 4, (3, 2), stride=2, groups=2)
        self.scaled = nn.Parameter(torch.randn(4, 4, 3, 3))

    def forward(self, x):
        x = self.middle(self.first(x)).relu()
        return self.last(torch.conv2d(x, self.scaled * 2)).flatten(1)


def strides(tensor):
    """Its strides along dimensions of more than one element, which autograd compares."""
    return [s for n, s in zip(tensor.shape, tensor.stride(), strict=True) if n > 1]


def gradients(function, net, images):
    loss = function(images).float().square().mean()
    return torch.autograd.grad(loss, list(net.parameters()))


@pytest.mark.parametrize(
    ("weights", "autocast"),
    [
        (torch.contiguous_format, False),
        (torch.contiguous_format, True),
        (torch.channels_last, False),
    ],
)
def test_strides_and_values(weights, autocast):
    torch._dynamo.reset()
    net = Convolutions().to(memory_format=weights)
    x = torch.randn(2, 3, 9, 8).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = gradients(torch.compile(net, backend="mammoth", dynamic=False), net, x)
        expected = gradients(net, net, x)
    for name, grad in zip(dict(net.named_parameters()), found, strict=True):
        if name != "scaled":  # it is not itself the weight of a convolution
            assert strides(grad) == strides(net.get_parameter(name)), name
    for one, other in zip(found, expected, strict=True):
        tolerance = 0.05 * float(other.abs().max()) if autocast else 1e-4
        torch.testing.assert_close(one, other, rtol=1e-4, atol=tolerance)


def test_user_code_may_view_weights_and_gradients():
    torch._dynamo.reset()
    net = Convolutions()
    function = torch.compile(net, backend="mammoth", dynamic=False)
    x = torch.randn(2, 3, 9, 8)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        function(x).square().mean().backward()
        optimizer.step()
        for parameter in net.parameters():
            state = optimizer.state[parameter]["momentum_buffer"]
            for tensor in (parameter, parameter.grad, state):
                assert tensor.is_contiguous()
                assert tensor.view(-1).shape == (parameter.numel(),)


def test_gradients_that_are_read_in_the_graph_stay_as_they_are():
    graph = torch.fx.Graph()
    value = graph.placeholder("value")
    graph.output((graph.call_function(torch.relu, (value,)), value))
    before = str(graph)
    backend._rewrite_joint(graph)
    assert str(graph) == before
