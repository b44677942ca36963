"""The backend "mammoth": registration, caches, and results close to eager over a whole run."""

import threading

import pytest
import torch
from torch import nn
from torch._functorch.aot_autograd import make_boxed_func
from torch._inductor import compile_fx
from torch._inductor import config as inductor

from mammoth_compiled import load_runner, train
from mammoth_compiled.compiler import backend, counters
from mammoth_compiled.engine.numerics import numerics
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


def test_backward_is_lowered_with_the_settings_of_forward_in_another_thread(monkeypatch):
    # As on CUDA, where autograd runs the backward, and lowers its graph, in a thread of its own.
    monkeypatch.setattr(backend, "_on_cpu", lambda inputs: False)
    seen = []

    def lower(graph, inputs, **_):
        settings = inductor.deterministic, inductor.max_autotune, inductor.joint_custom_post_pass
        seen.append((threading.current_thread(), torch.compiler.config.cache_key_tag, *settings))
        return make_boxed_func(graph.forward)

    monkeypatch.setattr(compile_fx, "compile_fx_inner", lower)
    x = torch.randn(3, requires_grad=True)
    function = torch.compile(lambda x: x.sin().sum(), backend="mammoth", mode="max-autotune")
    with numerics(x.device, "auto", deterministic=True):
        result = function(x)
        backward = threading.Thread(target=result.backward)
        backward.start()
        backward.join()
    torch.testing.assert_close(x.grad, x.detach().cos())
    (main, *settings), (other, *others) = seen
    assert (main, other) == (threading.main_thread(), backward)
    assert settings == others
    assert settings[0].startswith(" mammoth-")
    assert settings[1:3] == [True, True]
    assert settings[3] is not None


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


COMPILE = """
import sys, torch
from torch import nn
from torch._dynamo.utils import counters
from torch._inductor import codecache, config
from mammoth_compiled.kernels.runtime.cpp_compiler import prepare_compiler
config.cpp_cache_precompile_headers = False  # takes longer than these few kernels
prepare_compiler()
net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
for backend in sys.argv[1:]:
    torch.compile(net, backend=backend)(torch.randn(2, 3, 8, 8)).sum().backward()
    print(counters["aot_autograd"]["autograd_cache_hit"], counters["inductor"]["fxgraph_cache_hit"])
    counters.clear()
    torch._dynamo.reset()
"""


@pytest.mark.slow
def test_next_process_reuses_our_graphs_but_not_those_of_inductor(run_python, tmp_path):
    cache = str(tmp_path / "inductor")

    def hits(*backends):
        done = run_python("-c", COMPILE, *backends, TORCHINDUCTOR_CACHE_DIR=cache)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    assert hits("inductor", "mammoth") == ["0 0", "0 0"]
    assert hits("mammoth") == ["1 2"]
