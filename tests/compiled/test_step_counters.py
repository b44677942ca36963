"""Counters of batch norm advance together on a GPU."""

import pytest
import torch
from torch import nn

from mammoth_compiled.compiler import backend, step_counters

FOREACH = torch.ops.aten._foreach_add.Scalar


@pytest.fixture
def merged(monkeypatch, tmp_path):
    """Lets counters of the CPU be merged; the numbers of counters per merged operator."""
    found = []
    merge = step_counters.merge_step_counters

    def spy(graph):
        merge(graph)
        nodes = graph.find_nodes(op="call_function", target=FOREACH)
        found.extend((len(node.args[0]), node.args[1]) for node in nodes)

    def is_counter(node):
        value = node.meta.get("val")
        return isinstance(value, torch.Tensor) and value.numel() == 1 and value.dtype == torch.int64

    monkeypatch.setattr(step_counters, "_is_counter", is_counter)
    monkeypatch.setattr(backend, "merge_step_counters", spy)
    torch._dynamo.reset()
    with torch.compiler.config.patch(cache_key_tag=str(tmp_path)):  # graphs of other runs
        yield found
    torch._dynamo.reset()


def norms(count, **settings):
    return nn.Sequential(*(nn.BatchNorm1d(3, **settings) for _ in range(count)))


@torch.no_grad()
def test_counters_advance_in_one_operator(merged):
    net = norms(2)
    function = torch.compile(lambda x, y: (net(x), net(y)), backend="mammoth", dynamic=False)
    for _ in range(2):
        function(torch.randn(4, 3), torch.randn(5, 3))
    assert merged == [(2, 2)]  # two counters, two batches in each call
    assert [int(norm.num_batches_tracked) for norm in net] == [4, 4]


@torch.no_grad()
def test_counters_that_are_read_stay_as_they_are(merged):
    """Without momentum batch norm averages over all batches, and reads the counter."""
    net = norms(3, momentum=None)
    other = norms(3, momentum=None)
    function = torch.compile(net, backend="mammoth", dynamic=False)
    for _ in range(2):
        x = torch.randn(4, 3)
        torch.testing.assert_close(function(x), other(x))
    assert merged == []
    torch.testing.assert_close(net.state_dict(), other.state_dict())


def test_a_cpu_keeps_its_graphs():
    graph = torch.fx.Graph()
    counters = [graph.placeholder(f"counter{k}") for k in range(2)]
    for counter in counters:
        counter.meta["val"] = torch.zeros((), dtype=torch.int64)
        sum_ = graph.call_function(torch.ops.aten.add.Tensor, (counter, 1))
        sum_.meta["val"] = counter.meta["val"]
        graph.call_function(torch.ops.aten.copy_.default, (counter, sum_))
    graph.output(())
    before = str(graph)
    step_counters.merge_step_counters(graph)
    assert str(graph) == before
