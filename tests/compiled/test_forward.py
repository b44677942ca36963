"""How the backbone of a run is compiled: which calls go through Dynamo, and how often.

Dynamo captures as in a real run and counts its graphs; Inductor is left out (`graph_counter`), so
the numbers equal those of eager mode. Calls with gradients are compiled the second time.
"""

import copy
from types import SimpleNamespace

import pytest
import torch

from mammoth_compiled import (
    ContinualModel,
    MammothBackbone,
    get_model_names,
    load_runner,
    register_model,
    train,
)
from mammoth_compiled.engine.compute import Compute
from mammoth_compiled.models.sgd import SGD

CPU = torch.device("cpu")


@pytest.fixture
def net(tiny):
    """A backbone that runs compiled at batch size 4."""
    net = tiny.Net(6)
    compute = Compute(CPU, compile=True)
    compute.declare({4})
    compute.attach(net)
    return net


@pytest.fixture
def images():
    return torch.rand(4, 3, 8, 8)


@pytest.fixture
def own_observe(tiny):
    """A model in the style of Mammoth Lite that defines `observe`."""

    @register_model("own-observe")
    class OwnObserve(ContinualModel):
        def observe(self, inputs, labels, not_aug_inputs, epoch=None):
            self.opt.zero_grad()
            logits, features = self.net(inputs, returnt="both")
            loss = self.loss(logits, labels) + 1e-3 * features.square().mean()
            loss.backward()
            self.opt.step()
            return loss.item()

    return "own-observe"


# --- one backbone ----------------------------------------------------------------------------


def test_a_call_is_captured_once_the_second_time(net, images, graph_counter):
    frames = []
    for _ in range(4):
        net(images)
        frames.append(graph_counter.frame_count)
    assert frames == [0, 1, 1, 1]


def test_without_gradients_the_first_call_is_captured(net, images, graph_counter):
    with torch.no_grad():
        net(images)
    assert graph_counter.frame_count == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda net, x: net(x),
        lambda net, x: net(x, "features"),
        lambda net, x: net(x, returnt="both"),
        lambda net, x: net.features(x),
        lambda net, x: net.__call__(x),
    ],
)
def test_every_spelling_of_a_call_is_captured(net, images, graph_counter, call):
    net.eval()
    call(net, images)
    captured = call(net, images)
    assert graph_counter.frame_count == 1
    net.set_runner(None)
    torch.testing.assert_close(captured, call(net, images), rtol=0, atol=0)


def test_one_graph_for_each_returnt(net, images, graph_counter):
    net.eval()
    for _ in range(3):
        for returnt in ("out", "features", "both"):
            net(images, returnt=returnt)
        net.features(images)
    assert graph_counter.frame_count == 3


def test_train_and_no_grad_eval_have_separate_graphs(net, images, graph_counter):
    for _ in range(3):
        net.train()
        net(images)
        net.eval()
        with torch.no_grad():
            net(images)
    assert graph_counter.frame_count == 2


@pytest.mark.parametrize("batch", [1, 3, 5, 16])
def test_other_batch_sizes_run_eagerly(net, graph_counter, batch):
    for _ in range(2):
        assert net(torch.rand(batch, 3, 8, 8)).shape == (batch, 6)
    assert graph_counter.frame_count == 0


def test_other_arguments_run_eagerly(net, images, graph_counter):
    for _ in range(2):
        net.forward(images)
        net(x=images)
        with pytest.raises(ValueError, match="unknown returnt"):
            net(images, returnt="foo")
        with pytest.raises(TypeError):
            net(images, "out", "more")
        with pytest.raises(TypeError):
            net()
    assert graph_counter.frame_count == 0


def test_gradients_equal_eager(net, images, graph_counter):
    net.drop.p = 0.0
    other = copy.deepcopy(net)
    other.set_runner(None)
    for _ in range(3):
        net(images).square().sum().backward()
        other(images).square().sum().backward()
    assert torch.equal(net.get_grads(), other.get_grads())
    assert torch.equal(net.norm.running_mean, other.norm.running_mean)
    assert graph_counter.frame_count == 1


def test_new_weights_take_effect(net, images, graph_counter):
    net.eval()
    for _ in range(2):
        net(images)
    with torch.no_grad():
        net.classifier.weight.zero_()
        net.classifier.bias.fill_(3)
    assert (net(images) == 3).all()
    net.load_state_dict({k: torch.zeros_like(v) for k, v in net.state_dict().items()})
    assert (net(images) == 0).all()
    assert graph_counter.frame_count == 1


def test_freezing_takes_effect(net, images, graph_counter):
    for _ in range(2):
        assert net(images).requires_grad
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    assert not net(images).requires_grad


def test_a_copy_is_compiled_separately(net, images, graph_counter):
    net.eval()
    with torch.no_grad():
        expected = net(images)
        clone = copy.deepcopy(net)
        assert isinstance(clone, type(net))
        net.classifier.weight.zero_()
        assert torch.equal(clone(images), expected)
        assert graph_counter.frame_count == 2
        assert torch.equal(copy.deepcopy(clone)(images), expected)
        assert graph_counter.frame_count == 3


def test_the_module_stays_the_same(net, images, graph_counter):
    keys = list(net.state_dict())
    for _ in range(2):
        net(images)
    assert isinstance(net, MammothBackbone)
    assert type(net).__name__ == "TinyNet"
    assert list(net.state_dict()) == keys
    assert not [key for key in keys if "_orig_mod" in key]
    assert [name for name, _ in net.named_modules()] == ["", "conv", "norm", "drop", "classifier"]


def test_hooks_still_run(net, images, graph_counter):
    seen = []
    net.classifier.register_forward_hook(lambda m, args, output: seen.append(len(output)))
    for _ in range(4):
        net(images)
    assert seen == [4, 4, 4, 4]


def test_amp_computes_bfloat16_and_returns_float32(tiny, images, graph_counter):
    seen = []
    net = tiny.Net(6)
    net.classifier.register_forward_hook(lambda m, args, output: seen.append(output.dtype))
    compute = Compute(CPU, amp="bf16", compile=True)
    compute.declare({4})
    compute.attach(net)
    for _ in range(2):
        logits, features = net(images, returnt="both")
        assert logits.dtype == features.dtype == torch.float32
    assert seen == [torch.bfloat16] * 2
    assert graph_counter.frame_count >= 1


def test_inside_a_users_own_compile(net, images, graph_counter):
    # torch.compile of a function that calls the net traces the net, not a nested compiled function.
    net.eval()
    expected = net(images)
    outer = torch.compile(lambda x: net(x) * 2, backend="eager", fullgraph=True)
    assert torch.equal(outer(images), 2 * expected)


# --- a failure to compile --------------------------------------------------------------------


@pytest.fixture
def broken_compiler(monkeypatch):
    """A compiler that always fails; returns its error and counts its calls."""
    state = SimpleNamespace(calls=0, error=RuntimeError("no compiler here\nmore lines"))

    def fail(function, **_):
        def run(*args):
            state.calls += 1
            raise state.error

        return run

    monkeypatch.setattr("mammoth_compiled.engine.forward.compile_function", fail)
    return state


def test_failure_falls_back_to_eager_with_one_warning(net, images, broken_compiler):
    net.eval()
    with torch.no_grad():
        with pytest.warns(UserWarning, match=r"TinyNet runs eagerly .* failed: no compiler here$"):
            result = net(images)
        assert torch.equal(result, net.forward(images))
        net(images)  # warnings are errors: a second one would end the test
        net.features(images)
    assert broken_compiler.calls == 1


def test_failure_without_a_message(net, images, broken_compiler):
    broken_compiler.error = AssertionError()
    with torch.no_grad(), pytest.warns(UserWarning, match="failed: AssertionError"):
        net(images)


def test_failure_in_a_run_changes_no_numbers(tiny, broken_compiler):
    args = {"seed": 0, "batch_size": 8, "n_epochs": 1}
    with pytest.warns(UserWarning, match="runs eagerly from here on"):
        results = train(*load_runner("sgd", "seq-tiny", {**args, "compile": "on"}))
    eager = train(*load_runner("sgd", "seq-tiny", {**args, "compile": "off"}))
    assert results.class_il == eager.class_il
    assert results.loss == eager.loss


def test_user_errors_propagate(net, broken_compiler):
    with torch.no_grad(), pytest.raises(RuntimeError, match="expected input"):
        net(torch.rand(4, 5, 8, 8))
    assert broken_compiler.calls == 1


# --- a run -----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", get_model_names())
def test_a_compiled_run_equals_an_eager_one(tiny, example_args, graph_counter, model):
    # Captured by Dynamo and run by eager kernels: bit-equal.
    args = {"seed": 0, "batch_size": 8, "n_epochs": 2, "lr": 0.05, **example_args(model)}
    runs = []
    for switch in ("on", "off"):
        runner = load_runner(model, "seq-tiny-augmented", {**args, "compile": switch})
        runs.append((runner[0].net.state_dict(), train(*runner)))
    (weights, results), (eager_weights, eager_results) = runs
    assert graph_counter.frame_count > 0
    assert results.notes["compile"] is True
    assert results.loss == eager_results.loss
    assert results.class_il == eager_results.class_il
    assert all(torch.equal(weights[key], eager_weights[key]) for key in weights)


def test_own_observe_runs_compiled(own_observe, graph_counter):
    args = {"seed": 0, "batch_size": 8, "n_epochs": 1, "lr": 0.05}
    on = train(*load_runner(own_observe, "seq-tiny", {**args, "compile": "on"}))
    assert graph_counter.frame_count == 1  # training alone: 10 test images are no full batch
    off = train(*load_runner(own_observe, "seq-tiny", {**args, "compile": "off"}))
    assert graph_counter.frame_count == 1
    assert on.loss == off.loss


def test_compile_off_captures_nothing(run_tiny, graph_counter):
    _, _, results = run_tiny(compile="off")
    assert graph_counter.frame_count == 0
    assert results.notes["compile"] is False


def test_a_resumed_run_compiles_as_before(run_tiny, graph_counter, tmp_path):
    whole, _, results = run_tiny(compile="on")
    run_tiny(compile="on", savecheck="task", checkpoint_path=str(tmp_path))
    path = tmp_path / "sgd_seq-tiny_tiny-net_seed0_task2.pt"
    before = graph_counter.frame_count
    resumed, _, resumed_results = run_tiny(compile="auto", loadcheck=str(path))
    assert graph_counter.frame_count > before
    assert torch.equal(resumed.net.get_params(), whole.net.get_params())
    assert resumed_results.loss == results.loss


def test_a_network_that_replaces_the_backbone_is_compiled(tiny, compiled_functions):
    class OtherNet(tiny.Net):
        pass

    @register_model("replaces-net")
    class ReplacesNet(SGD):
        def begin_task(self, dataset):
            self.net = OtherNet(self.num_classes, width=2)
            self.opt = self.get_optimizer()

    args = {"seed": 0, "batch_size": 8, "n_epochs": 2, "compile": "on"}
    train(*load_runner("replaces-net", "seq-tiny", args))
    assert set(compiled_functions) == {"OtherNet_out"}
