"""Convolution, ReLU and pooling in graphs of Dynamo and torch.export, and explanations."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mammoth_compiled.compiler.explain import explain
from mammoth_compiled.compiler.patterns import apply_patterns
from mammoth_compiled.registry import backbones


class Block(nn.Module):
    """A convolution, followed by the function of a test."""

    def __init__(self, tail, convs=1):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(convs))
        self.norm = nn.BatchNorm2d(3)
        self.pool = nn.MaxPool2d(2)
        self.relu = nn.ReLU()
        self.relu_ = nn.ReLU(inplace=True)
        self.tail = tail

    def forward(self, x):
        return self.tail(self, x)


def applied(graph):
    """Rewrites a graph; returns the matches of other patterns than conv3x3, which only reports."""
    return [match for match in apply_patterns(graph) if match.pattern != "conv3x3"]


def rewritten(function, images):
    """(result of the rewritten graph in eager mode, the matches)."""
    matches = []

    def backend(graph, _):
        matches.extend(applied(graph.graph))
        graph.recompile()
        return graph

    torch._dynamo.reset()
    result = torch.compile(function, backend=backend, fullgraph=True)(images)
    torch._dynamo.reset()
    return result, matches


def assert_same_results(net, images):
    """Rewrites and compares result and gradients with eager; returns the matches."""
    other = copy.deepcopy(net)
    result, matches = rewritten(net, images)
    expected = other(images)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)
    result.square().sum().backward()
    expected.square().sum().backward()
    for one, two in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-5)
    return matches


def assert_same_results_exported(module, net, images):
    """Rewrites an exported graph and compares its result with eager; returns the matches."""
    matches = applied(module.graph)
    module.recompile()
    with torch.no_grad():
        torch.testing.assert_close(module(images), net(images), rtol=1e-5, atol=1e-6)
    return matches


SPELLINGS = {
    "module pool, F.relu": lambda m, x: m.pool(F.relu(m.convs[0](x))),
    "nn.ReLU": lambda m, x: m.pool(m.relu(m.convs[0](x))),
    "in-place nn.ReLU": lambda m, x: m.pool(m.relu_(m.convs[0](x))),
    "F.relu inplace": lambda m, x: m.pool(F.relu(m.convs[0](x), inplace=True)),
    "method": lambda m, x: m.pool(m.convs[0](x).relu()),
    "method in place": lambda m, x: m.pool(m.convs[0](x).relu_()),
    "torch.relu": lambda m, x: F.max_pool2d(torch.relu(m.convs[0](x)), 2),
    "torch.max_pool2d": lambda m, x: torch.max_pool2d(F.relu(m.convs[0](x)), 2),
    "all arguments": lambda m, x: F.max_pool2d(
        F.relu(m.convs[0](x)), kernel_size=(2, 2), stride=(2, 2), padding=0
    ),
    "other window": lambda m, x: F.max_pool2d(F.relu(m.convs[0](x)), (2, 4)),
    "pool before relu": lambda m, x: F.relu(m.pool(m.convs[0](x))),
    "pool before method": lambda m, x: m.pool(m.convs[0](x)).relu(),
    "view afterwards": lambda m, x: m.pool(F.relu(m.convs[0](x))).view(len(x), -1),
    "functional convolution": lambda m, x: m.pool(
        F.relu(F.conv2d(x, m.convs[0].weight, m.convs[0].bias, padding=1))
    ),
    "with a residual": lambda m, x: m.pool(F.relu(m.convs[0](x))) + m.pool(x),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_replaced(spelling):
    matches = assert_same_results(Block(SPELLINGS[spelling]), torch.rand(2, 3, 8, 8))
    assert [match.reason for match in matches] == [""]
    assert {match.pattern for match in matches} == {"conv-relu-pool"}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_replaced_after_export(exported, spelling):
    net, images = Block(SPELLINGS[spelling]), torch.rand(2, 3, 8, 8)
    matches = assert_same_results_exported(exported(net, images), net, images)
    assert [(match.pattern, match.reason) for match in matches] == [("conv-relu-pool", "")]


def test_several_in_a_row():
    def tail(m, x):
        for conv in m.convs:
            x = m.pool(F.relu(conv(x)))
        return x.flatten(1)

    matches = assert_same_results(Block(tail, convs=3), torch.rand(2, 3, 16, 16))
    assert [match.reason for match in matches] == ["", "", ""]


def test_odd_sizes():
    matches = assert_same_results(Block(SPELLINGS["method"]), torch.rand(2, 3, 7, 9))
    assert [match.reason for match in matches] == [""]


LEFT_ALONE = {
    "overlapping": (
        lambda m, x: F.max_pool2d(F.relu(m.convs[0](x)), 3, 2),
        "the pooling windows overlap, are padded or leave gaps",
    ),
    "padded": (
        lambda m, x: F.max_pool2d(F.relu(m.convs[0](x)), 2, padding=1),
        "the pooling windows overlap, are padded or leave gaps",
    ),
    "dilated": (
        lambda m, x: F.max_pool2d(F.relu(m.convs[0](x)), 2, dilation=2),
        "the pooling windows are dilated or rounded up",
    ),
    "rounded up": (
        lambda m, x: F.max_pool2d(F.relu(m.convs[0](x)), 3, ceil_mode=True),
        "the pooling windows are dilated or rounded up",
    ),
    "batch norm between": (
        lambda m, x: m.pool(F.relu(m.norm(m.convs[0](x)))),
        "its input is not from a convolution",
    ),
    "no convolution": (
        lambda m, x: m.pool(F.relu(x * m.convs[0].weight.sum())),
        "its input is not from a convolution",
    ),
    "relu used twice": (
        lambda m, x: (lambda y: m.pool(y) + y.mean())(F.relu(m.convs[0](x))),
        "an intermediate value is used elsewhere, too",
    ),
    "convolution used twice": (
        lambda m, x: (lambda y: m.pool(F.relu(y)) + y.mean())(m.convs[0](x)),
        "an intermediate value is used elsewhere, too",
    ),
    "large window": (
        lambda m, x: F.max_pool2d(F.relu(m.convs[0](x)), 16),
        "the pooling window has more than 126 elements",
    ),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_unsupported_graphs_report_a_reason(name):
    tail, reason = LEFT_ALONE[name]
    net = Block(tail)
    other = copy.deepcopy(net)
    images = torch.rand(2, 3, 16, 16)
    result, matches = rewritten(net, images)
    assert [match.reason for match in matches] == [reason]
    assert torch.equal(result, other(images))


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_unsupported_exported_graphs_report_a_reason(exported, name):
    tail, reason = LEFT_ALONE[name]
    net, images = Block(tail), torch.rand(2, 3, 16, 16)
    module = exported(net, images)
    before = str(module.graph)
    assert [match.reason for match in applied(module.graph)] == [reason]
    assert str(module.graph) == before


def test_inplace_relu_with_unused_result():
    def tail(m, x):
        y = m.convs[0](x)
        F.relu_(y)
        return m.pool(y)

    assert_same_results(Block(tail), torch.rand(2, 3, 8, 8))


def test_unbatched_image():
    (match,) = assert_same_results(Block(SPELLINGS["method"]), torch.rand(3, 8, 8))
    assert match.reason == "its input is not a float batch of images"


def test_pooling_that_returns_indices():
    net = Block(lambda m, x: F.max_pool2d(F.relu(m.convs[0](x)), 2, return_indices=True)[0])
    _, matches = rewritten(net, torch.rand(2, 3, 8, 8))
    assert matches == []


def test_pooling_that_returns_indices_after_export(exported):
    net = Block(lambda m, x: F.max_pool2d(F.relu(m.convs[0](x)), 2, return_indices=True)[0])
    images = torch.rand(2, 3, 8, 8)
    assert assert_same_results_exported(exported(net, images), net, images) == []


@pytest.mark.parametrize("name", ["cnn", "cnn-wide", "attention-cnn", "mnistmlp", "resnet18"])
def test_backbones_compute_the_same(exported, name):
    shape = (1, 28, 28) if name == "mnistmlp" else (3, 32, 32)
    narrow = {
        p.name: 4 for p in backbones[name].parameters if p.name in ("num_filters", "num_channels")
    }
    net = backbones[name].target(num_classes=3, **narrow).eval()
    images = torch.rand(2, *shape)
    module = exported(net, images)
    matches = assert_same_results(net, images)
    replaced = [m for m in matches if m.pattern == "conv-relu-pool" and not m.reason]
    assert len(replaced) == (2 if name in ("cnn", "cnn-wide") else 0)
    after_export = assert_same_results_exported(module, net, torch.rand(3, *shape))
    assert [m.reason for m in after_export] == [m.reason for m in matches]


def test_explanation_reports_replacements():
    explanation = explain(Block(SPELLINGS["method"]), torch.rand(2, 3, 8, 8))
    assert (explanation.graphs, explanation.breaks) == (1, ())
    assert [match.reason for match in explanation.matches] == [
        "",
        "it has fewer than 24 channels",
    ]
    assert "1 graph(s) of 3 operations" in str(explanation)
    assert "conv-relu-pool at `" in str(explanation)
    assert "replaced" in str(explanation)


def test_explanation_reports_graph_breaks_and_reasons():
    def tail(m, x):
        y = m.norm(m.convs[0](x))
        torch._dynamo.graph_break()
        return m.pool(F.relu(y))

    explanation = explain(Block(tail), torch.rand(2, 3, 8, 8))
    assert explanation.graphs == 2
    assert len(explanation.breaks) == 1
    assert __file__ in explanation.breaks[0]
    text = str(explanation)
    assert "graph break: " in text
    assert "left unchanged, because its input is not from a convolution" in text


def test_explanation_without_a_match():
    assert "no pattern matches" in str(explain(nn.Linear(2, 2), torch.rand(1, 2)))
