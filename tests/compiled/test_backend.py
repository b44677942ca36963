"""The backend "mammoth": registration, caches, and results close to eager over a whole run."""

import pytest
import torch
from torch import nn

from mammoth_compiled import load_runner, train
from mammoth_compiled.compiler import counters
from mammoth_compiled.registry import backbones


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    # A new cache, since code compiled earlier would prove nothing.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_found_by_name():
    # Through the entry point of the installed package.
    assert "mammoth" in torch._dynamo.list_backends()


def test_counters_are_differences():
    before = counters.read()
    counters.count_graph()
    after = counters.read() - before
    assert (after.graphs, after.graph_breaks, after.seconds) == (1, 0, 0.0)


@pytest.mark.slow
def test_cnn_equals_eager_forward_and_backward():
    torch.manual_seed(0)
    net = backbones["cnn"].target(num_classes=10, num_channels=8)
    compiled = torch.compile(net, backend="mammoth")
    images = torch.rand(4, 3, 32, 32)
    out, features = net(images, returnt="both")
    (out.square().sum() + features.sum()).backward()
    expected = net.get_grads().clone()
    net.zero_grad()
    before = counters.read().graphs
    compiled_out, compiled_features = compiled(images, returnt="both")
    (compiled_out.square().sum() + compiled_features.sum()).backward()
    torch.testing.assert_close(compiled_out, out, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(compiled_features, features, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net.get_grads(), expected, rtol=1e-3, atol=1e-3)
    assert counters.read().graphs == before + 1


@pytest.mark.slow
def test_compiled_run_follows_eager(tiny):
    args = {"seed": 0, "batch_size": 8, "n_epochs": 2, "lr": 0.02}
    # Without dropout, for which Inductor draws other masks than eager mode.
    args |= {"backbone": "cnn", "input_size": 8, "num_channels": 4, "buffer_size": 20}
    eager = train(*load_runner("er", "seq-tiny", {**args, "compile": "off"}))
    model, dataset = load_runner("er", "seq-tiny", {**args, "compile": "on"})
    compiled = train(model, dataset)
    torch.testing.assert_close(
        torch.tensor(compiled.loss), torch.tensor(eager.loss), rtol=2e-3, atol=1e-3
    )
    notes = compiled.notes["compiler"]
    assert notes["graphs"] > 0
    assert notes["graphs_after_first_task"] == 0
    assert notes["guards_after_first_task"] == []
    assert notes["graph_breaks"] == 0
    assert notes["seconds"] > 0
    assert "compiler" not in eager.notes


def test_guards_that_failed_are_named():
    class Scaled(nn.Module):
        factor = 1

        def forward(self, x):
            return x * self.factor

    net = Scaled()
    compiled = torch.compile(net, backend="eager", dynamic=False)
    for factor in (1, 2, 1):
        net.factor = factor
        compiled(torch.ones(2))
    (guard,) = counters.failed_guards(2)
    assert "factor" in guard
    assert counters.failed_guard(2) == guard
    assert counters.failed_guards(0) == []


TWICE = """
import sys, torch
from torch import nn
from torch._dynamo.utils import counters
net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
torch.compile(net, backend=sys.argv[1])(torch.randn(2, 3, 8, 8)).sum().backward()
print(counters["aot_autograd"]["autograd_cache_hit"], counters["inductor"]["fxgraph_cache_hit"])
"""


@pytest.mark.slow
def test_next_process_reuses_our_graphs_but_not_those_of_inductor(run_python, tmp_path):
    cache = str(tmp_path / "inductor")

    def hits(backend):
        done = run_python("-c", TWICE, backend, TORCHINDUCTOR_CACHE_DIR=cache)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    assert hits("inductor") == ["0", "0"]
    assert hits("mammoth") == ["0", "0"]
    assert hits("mammoth") == ["1", "2"]
