"""Patterns of convolutions and pooling on a fake GPU."""

import copy

import pytest
import torch
from fake_gpu import (
    Functional,
    Methods,
    Modules,
    Stem,
    assert_same_results,
    rewritten,
)
from torch import nn
from torch.nn import functional as F

from mammoth_compiled.kernels.conv_relu_pool import op
from mammoth_compiled.kernels.runtime import device as kernel_device


@pytest.mark.parametrize("style", [Functional, Modules, Methods])
@pytest.mark.parametrize(
    ("winner", "name"),
    [("triton", "fused conv"), ("unpooled", "unpooled conv"), ("relu_pool", "pool")],
)
def test_convolutions_in_three_spellings(gpu, style, winner, name):
    gpu.winners["conv_relu_pool"] = winner
    matches, found = assert_same_results(style(), torch.rand(2, 3, 8, 8))
    assert found == {name: 2}
    assert [match.reason for match in matches] == ["", ""]
    assert "Triton kernel" in matches[0].replacement
    assert [problem.split()[1:4] for problem in gpu.cases] == [
        ["batch=2", "in=3", "out=4"],
        ["batch=2", "in=4", "out=6"],
    ]
    assert ["input_grad=0" in case for case in gpu.cases] == [True, False]


def test_gradient_of_the_images(gpu):
    assert_same_results(Functional(), torch.rand(2, 3, 8, 8, requires_grad=True))
    assert all("input_grad=1" in case for case in gpu.cases)


def test_without_gradients(gpu):
    with torch.no_grad():
        _, _, found = rewritten(Functional(), torch.rand(2, 3, 8, 8))
    assert found == {"fused conv": 2}
    assert all("train=0" in case for case in gpu.cases)


def test_graph_stays_where_torch_is_faster(gpu):
    gpu.winners["conv_relu_pool"] = "torch"
    matches, found = assert_same_results(Functional(), torch.rand(2, 3, 8, 8))
    assert found == {}
    assert {match.reason for match in matches} == {"torch's own kernels were measured to be faster"}


def test_strict_float32_stays_with_cudnn(gpu, monkeypatch):
    monkeypatch.setattr(op, "input_precision", lambda dtype, convolution: "ieee")
    _, found = assert_same_results(Functional(), torch.rand(2, 3, 8, 8))
    assert found == {"pool": 2}
    assert gpu.cases == []


def test_resnet_stem(gpu):
    matches, found = assert_same_results(Stem(), torch.rand(2, 3, 32, 32))
    assert found == {"pool": 1}
    assert matches[0].replacement == "a Triton kernel for relu+pool"
    assert gpu.cases == []


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        (lambda x: F.max_pool2d(F.relu(x), 2, dilation=2), "are dilated or rounded up"),
        (lambda x: F.max_pool2d(F.relu(x), 3, ceil_mode=True), "are dilated or rounded up"),
        (lambda x: F.max_pool2d(F.relu(x), 16), "more than 126 elements"),
        (lambda x: F.max_pool2d(F.relu(x.sin()), 2), "not from a convolution or a batch norm"),
        (lambda x: F.max_pool2d(F.relu(x.double()), 2), "not from a convolution or a batch norm"),
    ],
)
def test_unsupported_graphs_report_a_reason(gpu, tail, reason):
    conv = nn.Conv2d(3, 4, 3, padding=1)
    images = torch.rand(2, 3, 16, 16)
    result, matches, found = rewritten(lambda x: tail(conv(x)), images)
    assert found == {}
    assert reason in matches[0].reason
    assert torch.equal(result, tail(conv(images)))


def test_float64_is_left_alone(gpu):
    net = Functional().double()
    _, matches, found = rewritten(net, torch.rand(2, 3, 8, 8).double())
    assert found == {}
    assert matches[0].reason == "there is no kernel for torch.float64"


def test_unsupported_gpu_is_left_alone(gpu, monkeypatch):
    monkeypatch.setattr(kernel_device, "supports_triton", lambda device: False)
    matches, found = assert_same_results(Functional(), torch.rand(2, 3, 8, 8))
    assert found == {}
    assert "compute capability 8.0" in matches[0].reason


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_cases_have_the_layouts_of_the_run(gpu, layout):
    net = Modules().to(memory_format=layout)
    assert_same_results(net, torch.rand(2, 3, 8, 8))
    nhwc = int(layout == torch.channels_last)
    first, second = (case.split()[-2:] for case in gpu.cases)
    # The images come contiguous from the loader; the second layer reads what the first one wrote.
    assert first == ["nhwc_images=0", f"nhwc_weight={nhwc}"]
    assert second == ["nhwc_images=1", f"nhwc_weight={nhwc}"]


@pytest.mark.parametrize("winner", ["triton", "unpooled"])
def test_autocast_leaves_weights_to_the_operator(gpu, winner):
    """It casts and reorders them in one kernel, and its gradients are float32 at once."""
    gpu.winners["conv_relu_pool"] = winner
    net, images = Functional(), torch.rand(2, 3, 8, 8)
    other = copy.deepcopy(net)
    with torch.autocast("cpu", torch.bfloat16):
        result, _, found = rewritten(net, images)
        expected = other(images)
    assert sum(found.values()) == 2
    assert all("cast=1" in case for case in gpu.cases)
    result.float().square().mean().backward()
    expected.float().square().mean().backward()
    for one, two in zip(net.parameters(), other.parameters(), strict=True):
        assert one.grad.dtype == torch.float32
        assert one.grad.stride() == one.stride()
        torch.testing.assert_close(one.grad, two.grad, rtol=0.05, atol=0.02)
