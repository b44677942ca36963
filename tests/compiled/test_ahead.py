"""Compiling before something is there: evaluation with training, graphs without the C++ library."""

import threading

import pytest
import torch
from torch import nn

from mammoth_compiled.compiler import backend, counters
from mammoth_compiled.compiler.ahead import compiling_ahead
from mammoth_compiled.datasets.base import EVAL_BATCH_SIZE
from mammoth_compiled.engine.compute import Compute
from mammoth_compiled.kernels.runtime import cpp_library


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def inductor(monkeypatch):
    """Lets the backend leave graphs as they are, since only the order matters; lists them."""
    graphs = []

    def compile_graph(graph, *_):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(backend, "_compile", compile_graph)
    monkeypatch.setattr(backend, "finish_kernels", lambda: graphs.append("finished"))
    return graphs


def compiled_net(tiny):
    net = tiny.Net(6)
    compute = Compute(torch.device("cpu"), compile=True)
    compute.declare({4})
    compute.attach(net)
    return net, compute


def test_a_call_ahead_is_compiled_and_computes_later(inductor):
    calls = []

    @torch.compile(backend="mammoth")
    def double(x):
        calls.append(1)
        return 2 * x

    x = torch.ones(3)
    with compiling_ahead():
        double(x)
        raise AssertionError("the call ends the block")
    assert len(inductor) == 1
    assert not calls
    assert double(x).tolist() == [2, 2, 2]
    assert calls
    assert len(inductor) == 1


def test_evaluation_is_compiled_with_the_first_training_call(tiny, inductor):
    torch.manual_seed(0)
    net, compute = compiled_net(tiny)
    images, tests = torch.rand(4, 3, 8, 8), torch.rand(EVAL_BATCH_SIZE, 3, 8, 8)
    compute.expect_evaluation(net, tests)
    net(images)
    assert not inductor, "the first call runs eagerly"
    modes = [module.training for module in net.modules()]
    statistics, state = net.norm.running_mean.clone(), torch.get_rng_state()
    net._runner._compile_ahead()
    assert len(inductor) == 1
    assert [module.training for module in net.modules()] == modes
    assert torch.equal(net.norm.running_mean, statistics)
    assert torch.equal(torch.get_rng_state(), state)
    net(images)
    assert len(inductor) == 3
    assert inductor[-1] == "finished"
    net.eval()
    with torch.no_grad():
        found = net(tests)
        assert len(inductor) == 3
        torch.testing.assert_close(found, nn.Module.__call__(net, tests))
    assert counters.failed_guards(2) == []


def test_ragged_batches_are_not_compiled_ahead(tiny, inductor):
    net, compute = compiled_net(tiny)
    compute.expect_evaluation(net, torch.rand(EVAL_BATCH_SIZE - 1, 3, 8, 8))
    assert net._runner.evaluated is None


def test_an_error_of_evaluation_waits_for_evaluation(tiny, inductor, monkeypatch):
    net, compute = compiled_net(tiny)
    images, tests = torch.rand(4, 3, 8, 8), torch.rand(EVAL_BATCH_SIZE, 5, 8, 8)
    compute.expect_evaluation(net, tests)
    for _ in range(2):
        assert net(images).shape == (4, 6)
    assert net.training
    assert compute.compile
    net.eval()
    with torch.no_grad(), pytest.raises(RuntimeError, match="channels"):
        net(tests)


@pytest.fixture
def building(monkeypatch):
    """Lets the library be built in the background, where it fails when the event is set."""
    fail = threading.Event()

    def library():
        assert fail.wait(60)
        raise RuntimeError("no library")

    cpp_library.unavailable_reason.cache_clear()
    monkeypatch.setattr(cpp_library, "_builder", None)
    monkeypatch.setattr(cpp_library, "_library", library)
    monkeypatch.setattr(cpp_library, "_unsupported_reason", lambda: "")
    yield fail
    fail.set()
    cpp_library._builder.join()
    cpp_library.unavailable_reason.cache_clear()


def test_a_library_that_is_being_built_is_expected_and_replaced_if_it_fails(building):
    from mammoth_compiled.kernels.conv3x3 import op

    cpp_library.build_in_background.__wrapped__()
    x, weight = torch.randn(2, 32, 4, 4), torch.randn(32, 32, 3, 3)
    with cpp_library.expected():
        assert cpp_library.is_available()
        assert cpp_library.cpp_why_not(x) == ""
        building.set()
        assert cpp_library.cpp_why_not(x) == "", "the same answer for the whole graph"
    with pytest.warns(UserWarning, match="could not be built, so torch computes .*: no library"):
        y = op.conv3x3_op(x, weight, None)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, nn.functional.conv2d(x, weight, padding=1))
    with cpp_library.expected():
        assert not cpp_library.is_available()
