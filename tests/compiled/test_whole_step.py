"""`--whole_step`: forward, loss and backward as one graph compute what separate graphs compute.

Graphs go through Dynamo and AOTAutograd, but not through Inductor, which takes longer.
"""

import random
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.compilers import nop
from torch.nn import functional as F

from mammoth_compiled import ContinualModel, MammothBackbone, register_backbone, register_model
from mammoth_compiled.compiler import counters
from mammoth_compiled.compiler.compat import COMBO_KERNELS, compile_function
from mammoth_compiled.compiler.host_randomness import check_host_randomness
from mammoth_compiled.engine import whole_step
from mammoth_compiled.engine.compute import MAX_UNDECLARED_SIZES, WHOLE, Compute
from mammoth_compiled.engine.observer import Observer
from mammoth_compiled.engine.whole_step import set_gradients
from mammoth_compiled.types import Batch

# Replay batches are smaller than those of the stream, and the last batch of an epoch is ragged.
ARGS = {
    "sgd": {},
    "er": {"buffer_size": 20, "minibatch_size": 6},
    "derpp": {"buffer_size": 20, "minibatch_size": 6, "alpha": 0.1, "beta": 0.5},
}
FULL_STEPS = 12  # of three tasks, besides three ragged ones


class Losses(Observer):
    def __init__(self):
        self.losses = []

    def read_losses(self, run, losses):
        self.losses += losses


@pytest.fixture(autouse=True)
def whole_graphs(compiled_functions, monkeypatch):
    """Compiles steps without Inductor; counts the calls that ran as one graph."""
    calls = []

    def count_graph(graph, inputs):
        check_host_randomness()
        counters.count_graph()
        return nop(graph, inputs)

    backend = aot_autograd(fw_compiler=count_graph, keep_inference_input_mutations=True)

    def compile_step(function, *, fullgraph, **_):
        compiled = compile_function(function, backend=backend, dynamic=False, fullgraph=fullgraph)

        def call(*args):
            result = compiled(*args)
            calls.append(function)
            return result

        return call

    monkeypatch.setattr(whole_step, "compile_function", compile_step)
    return calls


@pytest.fixture(autouse=True)
def norm_net():
    """A backbone with running statistics and without dropout, whose random numbers may differ."""

    @register_backbone("norm-net")
    class NormNet(MammothBackbone):
        def __init__(self, num_classes):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
            self.classifier = nn.Linear(64, num_classes)

        def forward(self, x, returnt="out"):
            features = F.max_pool2d(F.relu(self.norm(self.conv(x))), 2).flatten(1)
            logits = self.classifier(features)
            return {"out": logits, "features": features, "both": (logits, features)}[returnt]


@pytest.fixture
def run(run_tiny):
    """Returns a function that trains compiled: losses, model, results."""

    def run(model, whole=True, observers=(), **args):
        seen = Losses()
        args = {**ARGS.get(model, {}), "compile": "on", "backbone": "norm-net", **args}
        trained, _, results = run_tiny(
            model, observers=[seen, *observers], whole_step=whole, **args
        )
        return seen.losses, trained, results

    return run


@pytest.mark.parametrize("args", [{}, {"clip_grad": 0.5, "optim_mom": 0.9}], ids=["plain", "clip"])
@pytest.mark.parametrize("model", ARGS)
def test_a_step_in_one_graph_computes_the_same(run, whole_graphs, model, args):
    expected, reference, _ = run(model, whole=False, **args)
    assert not whole_graphs
    losses, trained, results = run(model, **args)
    # The first step of each kind, with and without replay, is not compiled.
    assert len(whole_graphs) == FULL_STEPS - (1 if model == "sgd" else 2)
    assert results.notes["compiler"]["graphs_after_first_task"] == 0
    assert losses == pytest.approx(expected, rel=1e-4)
    for name, value in trained.net.state_dict().items():
        torch.testing.assert_close(value, reference.net.state_dict()[name], rtol=1e-3, atol=1e-5)
    if model != "sgd":
        assert torch.equal(trained.buffer.labels, reference.buffer.labels)
        assert torch.equal(trained.buffer.examples, reference.buffer.examples)


def test_after_backward_reads_the_gradients(run, whole_graphs):
    norms = []

    @register_model("reads-gradients")
    class ReadsGradients(ContinualModel):
        def training_loss(self, batch):
            return self.loss(self.net(batch.inputs), batch.labels)

        def after_backward(self, batch):
            norms.append(sum(p.grad.norm() for p in self.net.parameters()).item())
            for parameter in self.net.parameters():
                parameter.grad.mul_(0.5)

    losses, _, _ = run("reads-gradients")
    assert whole_graphs
    assert min(norms) > 0
    expected, _, _ = run("sgd", lr=0.015)
    assert losses == pytest.approx(expected, rel=1e-4)


class ReadsBuffer:
    """Replays inside `training_loss`, which one graph must not do."""

    def training_loss(self, batch):
        loss = self.loss(self.net(batch.inputs), batch.labels)
        if not self.buffer.is_empty():
            images, labels = self.buffer.get_data(6, self.transform)[:2]
            loss = loss + self.loss(self.net(images), labels)
        return loss


class HasHooks:
    """Registers a gradient hook, which `torch.autograd.grad` does not call."""

    def begin_task(self, dataset):
        next(self.net.parameters()).register_hook(lambda grad: 2 * grad)


class Shuffles:
    """Mixes the images in an order that Python draws."""

    def training_loss(self, batch):
        order = list(range(len(batch.inputs)))
        random.shuffle(order)
        logits = self.net(0.7 * batch.inputs + 0.3 * batch.inputs[order])
        return 0.7 * self.loss(logits, batch.labels) + 0.3 * self.loss(logits, batch.labels[order])


@pytest.mark.parametrize(
    ("behavior", "reason"),
    [
        (ReadsBuffer, "read it in draw(batch)"),
        (HasHooks, "gradient hooks"),
        (Shuffles, "it draws random numbers with Python's random"),
    ],
    ids=["buffer", "hooks", "shuffle"],
)
def test_a_step_that_cannot_be_one_graph_runs_as_without(run, whole_graphs, behavior, reason):
    from mammoth_compiled.models.er import ER

    register_model("special")(type("Special", (behavior, ER), {}))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        losses, _, results = run("special", **ARGS["er"])
    assert not whole_graphs
    (message,) = [str(w.message) for w in caught if "one compiled graph" in str(w.message)]
    for part in ("Special", reason, "--whole_step"):
        assert part in message
    assert results.notes["compiler"]["graphs_after_first_task"] == 0
    if behavior is HasHooks:  # the others drew, once, before tracing failed, or replay nothing
        assert losses == run("special", whole=False, **ARGS["er"])[0]


def test_resumed_run_ends_with_the_same_bits(run, whole_graphs, tmp_path):
    """Stopped without warning after two steps of the second task."""

    class Stops(Observer):
        def end_step(self, run, loss, num_images):
            if (run.task, run.step) == (1, 2):
                raise Stopped

    class Stopped(BaseException):
        pass

    args = {"optim_mom": 0.5, "checkpoint_path": str(tmp_path), "checkpoint_every": "1"}
    _, reference, _ = run("derpp", optim_mom=0.5)
    with pytest.raises(Stopped):
        run("derpp", observers=[Stops()], **args)
    torch._dynamo.reset()
    whole_graphs.clear()
    _, resumed, _ = run("derpp", resume=1, **args)
    assert len(whole_graphs) == 2 + 4  # all full steps that are left
    for name, value in resumed.net.state_dict().items():
        assert torch.equal(value, reference.net.state_dict()[name]), name


def test_gradients_have_the_strides_of_parameters_and_their_own_memory():
    parameters = [nn.Parameter(torch.zeros(2, 3)) for _ in range(4)]
    shared, images = torch.arange(6.0).view(2, 3), torch.ones(2, 3)
    transposed = torch.arange(6.0).view(3, 2).T
    set_gradients(parameters, [shared, shared, transposed, images], [images])
    gradients = [p.grad for p in parameters]
    assert gradients[0] is shared
    assert len({g.data_ptr() for g in [*gradients, images]}) == 5
    assert all(g.stride() == (3, 1) for g in gradients)
    assert torch.equal(gradients[1], shared)
    assert torch.equal(gradients[2], transposed)
    set_gradients(parameters[:1], [None], [])
    assert parameters[0].grad is None


def test_a_graph_returns_gradients_in_the_order_of_parameters():
    net = nn.Conv2d(3, 4, 3)
    parameters = list(net.parameters())
    images = torch.randn(2, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    model = SimpleNamespace(training_loss=lambda batch: net(batch.inputs).square().mean())
    step = whole_step._step_function(model)
    _, logits, losses, gradients = step(parameters, images, None, images, None, None)
    assert logits is None
    assert losses is None
    expected = torch.autograd.grad(model.training_loss(Batch(images, None, images)), parameters)
    assert expected[0].stride() != net.weight.stride()
    for found, parameter, grad in zip(gradients, parameters, expected, strict=True):
        assert found.stride() == parameter.stride()
        assert torch.equal(found, grad)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_small_kernels_are_launched_together_on_a_gpu(monkeypatch, device):
    given = {}
    monkeypatch.setattr(whole_step, "compile_function", lambda _, **options: given.update(options))
    whole_step.WholeStep(Compute(torch.device(device), compile=True))._compiled(SimpleNamespace())
    assert given["options"] == (COMBO_KERNELS if device == "cuda" else None)


# --- which steps ---


def made(compute, kind, num_images=8, may_be_new=True):
    with compute.step(num_images):
        return compute.compiles_step(WHOLE + kind, may_be_new)


@pytest.fixture
def compute():
    return Compute(torch.device("cpu"), compile=True)


def test_steps_are_compiled_from_the_second_one_on(compute):
    assert [made(compute, "8"), made(compute, "8"), made(compute, "8")] == [False, True, True]
    assert not made(compute, "5", num_images=5)
    assert not compute.compiles_step(WHOLE + "8", may_be_new=True), "outside of a step"


def test_kinds_of_later_tasks_are_not_compiled(compute):
    made(compute, "8")
    assert not any(made(compute, "8+6", may_be_new=False) for _ in range(3))
    assert made(compute, "8", may_be_new=False)


def test_number_of_compiled_kinds_is_bounded(compute):
    kinds = [str(n) for n in range(MAX_UNDECLARED_SIZES + 2)]
    compiled = [[made(compute, kind) for _ in range(3)][1:] for kind in kinds]
    assert compiled == [[True, True]] * MAX_UNDECLARED_SIZES + [[False, False]] * 2


def test_a_resumed_run_decides_alike(compute):
    made(compute, "8")
    resumed = Compute(torch.device("cpu"))
    resumed.load_state_dict(compute.state_dict())
    assert made(resumed, "8", may_be_new=False)
    with pytest.warns(UserWarning, match="because it must not"):
        compute.disable_whole_step(nn.Linear(1, 1), "it must not")
    resumed.load_state_dict(compute.state_dict())
    assert not made(resumed, "8")
