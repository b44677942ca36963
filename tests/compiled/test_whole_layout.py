"""Convolutions of a graph with forward and backward run in channels-last, as far as it can see."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from mammoth_compiled.compiler import whole_layout
from mammoth_compiled.compiler.whole_layout import use_channels_last


class Residual(nn.Module):
    """Convolutions of several kinds, a shortcut, and a view of images."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.short, self.norm = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8, track_running_stats=False)
        self.classifier = nn.Linear(8 * 36, 4)

    def features(self, x):
        x = F.relu(self.norm(self.first(x)))
        return F.relu(self.norm(self.second(x))) + self.short(x)

    def forward(self, x):
        features = self.features(x)
        return self.classifier(features.view(len(x), -1)), features


@pytest.fixture
def traced(monkeypatch):
    """Returns a function that traces a step whose convolutions choose layouts as cuDNN does."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from fake_h100 import memory_format_of_cudnn

    monkeypatch.setattr(torch._C, "_conv_determine_backend_memory_format", memory_format_of_cudnn)

    def trace(function, *inputs):
        module = make_fx(function, tracing_mode="fake")(*inputs)
        return module, lambda: module(*inputs)

    return trace


@pytest.fixture
def step(traced):
    torch.manual_seed(0)
    net = Residual()
    names, parameters = zip(*net.named_parameters(), strict=True)

    def step(parameters, images, labels):
        logits, features = functional_call(net, dict(zip(names, parameters, strict=True)), images)
        loss = F.cross_entropy(logits, labels)
        return loss.detach(), features.detach(), *torch.autograd.grad(loss, parameters)

    return traced(step, parameters, torch.randn(5, 3, 6, 6), torch.tensor([0, 1, 2, 3, 0]))


def calls(module, name):
    return [n for n in module.graph.nodes if n.op == "call_function" and name in str(n.target)]


def layouts(module):
    """Whether the images, gradients and weights that each convolution gets are channels-last."""
    values = [
        arg.meta["val"]
        for node in calls(module, "aten.convolution")
        for arg in node.args[:3]
        if isinstance(arg, torch.fx.Node)
    ]
    return [v.is_contiguous(memory_format=torch.channels_last) for v in values if v.dim() == 4]


def output_strides(module):
    (output,) = module.graph.find_nodes(op="output")
    return [node.meta["val"].stride() for node in output.args[0]]


def test_everything_is_channels_last_but_the_results(step, monkeypatch):
    module, run = step
    monkeypatch.setattr(whole_layout, "_prefers_channels_last", lambda graph: True)
    assert not all(layouts(module))
    expected, strides = run(), output_strides(module)
    use_channels_last(module.graph)
    module.graph.lint()
    module.recompile()
    assert all(layouts(module))
    # Of the images, of two weights, and of the gradient that comes through the view.
    assert len(calls(module, "aten.clone")) == 4
    assert output_strides(module) == strides
    for one, other in zip(run(), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        assert one.stride() == other.stride()


def test_graphs_of_a_cpu_stay(step):
    module, _ = step
    before = str(module.graph)
    use_channels_last(module.graph)
    assert str(module.graph) == before


@pytest.mark.parametrize(
    ("function", "prefers"),
    [
        (lambda y, w: (torch.autograd.grad(y.sum(), [w])[0], y), True),
        (lambda y, w: (y,), False),  # no backward
        (lambda y, w: (torch.autograd.grad(y.sum(), [w])[0], y.as_strided((2, 2), (1, 2))), False),
    ],
)
def test_which_graphs_are_rewritten(traced, function, prefers):
    weight = torch.randn(128, 128, 3, 3, requires_grad=True)
    module, _ = traced(
        lambda x, w: function(torch.conv2d(x, w), w), torch.randn(2, 128, 6, 6), weight
    )
    for node in calls(module, "aten.convolution"):
        for arg in node.all_input_nodes:
            value = arg.meta["val"]
            with value.fake_mode:
                arg.meta["val"] = torch.empty_like(value, device="cuda")
    assert whole_layout._prefers_channels_last(module.graph) == prefers
    for node in module.graph.find_nodes(op="placeholder"):
        node.name = f"tangents_{node.name}"
    assert not whole_layout._prefers_channels_last(module.graph)
