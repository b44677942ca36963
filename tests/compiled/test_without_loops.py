"""Graphs whose only loops are copies and sums: which are rewritten, and that results stay."""

import pytest
import torch
from hardware import skip_without_cpp_kernels
from torch import nn
from torch._inductor.async_compile import AsyncCompile
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from mammoth_compiled.compiler.patterns.without_loops import call_ready_loops

OURS = {torch.ops.mammoth.reorder_images.default, torch.ops.mammoth.sum_rows.default}


@pytest.fixture(autouse=True)
def kernels():
    skip_without_cpp_kernels()


def forward(images, weight, bias):
    y = torch.ops.aten.clone(images, memory_format=torch.channels_last)
    y = torch.ops.aten.clone(y, memory_format=torch.contiguous_format)
    return torch.ops.aten.addmm(bias, y.reshape(len(images), -1), weight.t())


def backward(grad, weight):
    images = (grad @ weight).reshape(4, 3, 6, 5)
    strides = [90, 1, 15, 3]
    images = torch.ops.prims.inductor_force_stride_order(images, strides)
    images = torch.ops.prims.inductor_force_stride_order(images, strides)
    return images, grad.sum([0], True).reshape(-1)


def with_another_loop(*args):
    return F.relu(forward(*args))


FORWARD = (torch.randn(4, 3, 6, 5), torch.randn(7, 90), torch.randn(7))
BACKWARD = (torch.randn(4, 7), torch.randn(7, 90))


def rewritten(function, inputs):
    """Returns the graph after the lowering, and its targets before and after."""
    graph = make_fx(function, tracing_mode="fake")(*inputs)
    before = [node.target for node in graph.graph.nodes]
    call_ready_loops(graph.graph)
    graph.graph.lint()
    graph.recompile()
    return graph, before, [node.target for node in graph.graph.nodes]


@pytest.mark.parametrize(
    ("function", "inputs", "count"), [(forward, FORWARD, 2), (backward, BACKWARD, 2)]
)
def test_copies_and_sums_become_calls(function, inputs, count):
    graph, _, after = rewritten(function, inputs)
    assert sum(target in OURS for target in after) == count
    results, expected = graph(*inputs), function(*inputs)
    for result, exact in zip(
        *((r,) if isinstance(r, torch.Tensor) else r for r in (results, expected)), strict=True
    ):
        torch.testing.assert_close(result, exact)
        assert result.stride() == exact.stride()


@pytest.mark.parametrize(
    ("function", "inputs"),
    [
        (with_another_loop, FORWARD),
        (forward, tuple(t.double() for t in FORWARD)),
        (backward, tuple(t.bfloat16() for t in BACKWARD)),
        (lambda x: torch.cat([x, x]), (torch.randn(4, 7),)),
        (lambda x: x.sum([1], True), (torch.randn(4, 7),)),
        (lambda x: x.sum([0], True), (torch.randn(7, 4).t(),)),
        (
            lambda x: torch.ops.aten.clone(x, memory_format=torch.channels_last),
            (FORWARD[0][:, 1:],),
        ),
    ],
)
def test_other_graphs_are_left_to_inductor(function, inputs):
    _, before, after = rewritten(function, inputs)
    assert before == after


def test_convolutions_and_a_classifier_compile_no_loop(monkeypatch):
    monkeypatch.setattr(AsyncCompile, "cpp_pybinding", lambda *_: pytest.fail("a loop"))
    torch._dynamo.reset()
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 5)
    )
    images = torch.randn(6, 3, 4, 4)
    found = torch.compile(net, backend="mammoth", dynamic=False)(images)
    gradients = torch.autograd.grad(found.square().sum(), list(net.parameters()))
    result = net(images)
    torch.testing.assert_close(found, result)
    expected = torch.autograd.grad(result.square().sum(), list(net.parameters()))
    torch.testing.assert_close(gradients, expected)
    torch._dynamo.reset()
