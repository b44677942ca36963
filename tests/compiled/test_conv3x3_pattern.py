"""3x3 convolutions on a CPU: which ones are replaced in compiled graphs, and their results."""

import copy
from collections import Counter

import pytest
import torch
from hardware import skip_without_cpp_kernels
from torch import nn
from torch.nn import functional as F

from mammoth_compiled.compiler import backend
from mammoth_compiled.compiler.explain import explain
from mammoth_compiled.kernels.conv3x3 import cpp
from mammoth_compiled.kernels.conv3x3.op import MIN_CHANNELS
from mammoth_compiled.kernels.runtime import cpp_library

CHANNELS = MIN_CHANNELS


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    skip_without_cpp_kernels()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def calls(monkeypatch):
    """Counts the calls of C++ functions by name."""
    count = Counter()

    def counting(name, *args):
        count[name] += 1
        return cpp_library.call(name, *args)

    monkeypatch.setattr(cpp, "call", counting)
    return count


class Residual(nn.Module):
    """A residual block, and a `view` that eager mode refuses for channels-last tensors."""

    def __init__(self, bias=False, flat=True, **settings):
        super().__init__()
        self.flat = flat
        settings = {"padding": 1, "bias": bias, **settings}
        self.conv1 = nn.Conv2d(CHANNELS, CHANNELS, 3, **settings)
        self.norm1 = nn.BatchNorm2d(CHANNELS)
        self.conv2 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=bias)
        self.norm2 = nn.BatchNorm2d(CHANNELS)

    def forward(self, x):
        y = F.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        y = F.relu(y + x) if y.shape == x.shape else F.relu(y)
        return y.view(len(y), -1) if self.flat else y


def assert_same_results(net, images, **options):
    """Compares value and gradients of a compiled network with eager mode; returns it, compiled."""
    other = copy.deepcopy(net)
    compiled = torch.compile(net, backend="mammoth", **options)
    one, two = images.clone().requires_grad_(), images.clone().requires_grad_()
    result, expected = compiled(one), other(two)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
    assert result.stride() == expected.stride()
    result.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(one.grad, two.grad, rtol=1e-3, atol=1e-4)
    for mine, theirs in zip(net.parameters(), other.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None)
        if mine.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-3)
            assert mine.grad.stride() == theirs.grad.stride()
    return compiled


ALL = {"conv3x3": 4, "conv3x3_weight_grad": 2}  # an input gradient is a convolution, too


@pytest.mark.slow
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", ["contiguous_format", "channels_last"])
def test_forward_and_backward(calls, bias, layout):
    # Eager mode cannot view a channels-last tensor either.
    net = Residual(bias, flat=layout == "contiguous_format")
    images = torch.randn(3, CHANNELS, 6, 7).contiguous(memory_format=getattr(torch, layout))
    compiled = assert_same_results(net, images)
    assert calls == ALL
    calls.clear()
    with torch.no_grad():
        torch.testing.assert_close(compiled.eval()(images), net.eval()(images))
    assert calls == {"conv3x3": 2}


@pytest.mark.slow
def test_dynamic_sizes(calls):
    net = Residual()
    compiled = assert_same_results(net, torch.randn(3, CHANNELS, 6, 6), dynamic=True)
    assert compiled(torch.randn(5, CHANNELS, 8, 8)).shape == (5, CHANNELS * 64)


@pytest.mark.slow
def test_frozen_weights_get_no_gradient(calls):
    net = Residual(bias=True)
    net.conv2.requires_grad_(False)
    net.conv1.bias.requires_grad_(False)
    assert_same_results(net, torch.randn(2, CHANNELS, 5, 5))
    assert calls == {"conv3x3": 4, "conv3x3_weight_grad": 1}


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{"stride": 2}, {"padding": 0}, {"dilation": 2}, {"groups": 2}, {"padding_mode": "circular"}],
    ids=str,
)
def test_unsupported_convolutions_are_left_alone(calls, settings):
    assert_same_results(Residual(**settings), torch.randn(2, CHANNELS, 8, 8))
    # One of the two is left; circular padding is a separate operation before the convolution.
    assert calls == {"conv3x3": 2, "conv3x3_weight_grad": 1}


@pytest.mark.slow
def test_autocast_stays_with_torch(calls):
    net = Residual()
    compiled = torch.compile(net, backend="mammoth")
    with torch.autocast("cpu", torch.bfloat16):
        compiled(torch.randn(2, CHANNELS, 5, 5)).float().sum().backward()
    assert not calls


@pytest.mark.slow
def test_float64_stays_with_torch(calls):
    assert_same_results(Residual().double(), torch.randn(2, CHANNELS, 5, 5).double())
    assert not calls


def test_user_options_take_precedence(calls):
    net = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
    options = {"post_grad_custom_pre_pass": None}
    compiled = torch.compile(net, backend="mammoth", options=options)
    compiled(torch.randn(1, CHANNELS, 4, 4))
    assert not calls


def test_cache_separates_machines_with_and_without_cpp_kernels(monkeypatch):
    tensor, other = torch.zeros(1), torch.zeros(1, device="meta")
    with_kernels = backend._cache_tag([tensor])
    assert backend._cache_tag([other]) == backend._cache_tag([3]) != with_kernels
    monkeypatch.setattr(cpp_library, "unavailable_reason", lambda: "there are none")
    assert backend._cache_tag([tensor]) == backend._cache_tag([other])


def explained(net, images):
    return [
        (m.reason, m.replacement) for m in explain(net, images).matches if m.pattern == "conv3x3"
    ]


def test_explanation():
    images = torch.randn(1, CHANNELS, 4, 4)
    replaced = ("", "C++ kernels by Winograd")
    assert explained(Residual(), images) == [replaced, replaced]
    assert explained(Residual(stride=2), images) == [replaced]
    few = nn.Conv2d(CHANNELS, CHANNELS - 1, 3, padding=1)
    assert explained(few, images) == [("it has fewer than 24 channels", "")]
    wide = "its input is not a float32 batch of images"
    assert explained(Residual().double(), images.double()) == [(wide, "")] * 2
    # A convolution with ReLU and pooling is one match.
    pooled = nn.Sequential(nn.Conv2d(CHANNELS, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    (match,) = explain(pooled, images).matches
    assert (match.pattern, match.replacement) == ("conv-relu-pool", "one C++ kernel")


def test_explanation_without_cpp_kernels(monkeypatch):
    monkeypatch.setattr(cpp_library, "unavailable_reason", lambda: "there are none")
    images = torch.randn(1, CHANNELS, 4, 4)
    assert explained(Residual(), images) == [("there are none", "")] * 2
    pooled = nn.Sequential(nn.Conv2d(CHANNELS, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    first, second = explain(pooled, images).matches
    assert first.replacement == "channels-last convolution, relu+pool without scatter"
    assert second.reason == "it has fewer than 24 channels"
