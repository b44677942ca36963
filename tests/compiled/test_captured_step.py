"""The captured training step computes what the step in Python computes.

An operation log stands in for the CUDA graph; see `operation_log`.
"""

import random
import warnings

import numpy as np
import pytest
import torch
from killed_runs import KilledAfter
from operation_log import LogCapture, OperationLog

from mammoth_compiled import (
    Buffer,
    ContinualModel,
    get_avail_args,
    get_model_names,
    load_runner,
    register_backbone,
    register_model,
)
from mammoth_compiled.buffers.policies import POLICIES
from mammoth_compiled.data import array_source, ready_batch
from mammoth_compiled.engine import static_step
from mammoth_compiled.engine.captured_step import WARMUP_STEPS, StepState, training_step
from mammoth_compiled.errors import DataError
from mammoth_compiled.kernels.runtime import device as kernel_device
from mammoth_compiled.kernels.step_end import end_step
from mammoth_compiled.registry import models

# No batch norm: the gradient of a bias before it is rounding noise, which Adam amplifies.
ADAM = {"optimizer": "adam", "lr": 0.001, "backbone": "mnistmlp", "input_size": 192}
EXTRA_CASES = [
    ("sgd", {"optim_mom": 0.9, "lr_scheduler": "cosine"}),
    ("sgd", ADAM),
    ("er", {"clip_grad": 0.5}),
]
REHEARSAL = [name for name in get_model_names() if "buffer_policy" in get_avail_args(model=name)[1]]
CASES = [
    *((name, {}) for name in get_model_names()),
    *(
        (name, {"buffer_policy": p})
        for name in REHEARSAL
        for p in POLICIES
        # How a loss is noted differs between these three.
        if p != "reservoir" and (name in ("er", "derpp", "agem") or not POLICIES[p].needs_losses)
    ),
    *EXTRA_CASES,
]


def learn(name, capture_of=None, epochs=3, **arguments):
    """Trains on two tasks and returns the model, its losses and the number of replays."""
    if name in REHEARSAL:
        arguments = {"buffer_size": 12, "minibatch_size": 8, **arguments}
    arguments = {
        "seed": 0,
        "lr": 0.1,
        "batch_size": 8,
        "n_epochs": epochs,
        **models[name].target.EXAMPLE_ARGS,
        **arguments,
    }
    model, dataset = load_runner(name, "seq-tiny-augmented", {"compile": "off", **arguments})
    capture = capture_of(model) if capture_of else None
    losses, replays = [], 0
    model.net.train()
    for _ in range(min(2, dataset.num_stages)):
        loader, _ = dataset.meta_get_data_loaders()
        model.begin_task(dataset)
        with training_step(model, model.compute, capture=capture) as step:
            for epoch in range(epochs):
                step.begin_epoch()
                for lazy in loader.lazy_batches():
                    loss, num_images = step(lazy, epoch)
                    losses.append((float(loss), num_images))
        replays += step.replays
        model.end_task(dataset)
    return model, losses, replays


def of_model(model):
    state = {f"net.{k}": v for k, v in model.net.state_dict().items()}
    for name, value in vars(model).items():
        if isinstance(value, Buffer):
            state |= {f"{name}.{k}": v for k, v in value.serialize().items()}
            state |= {f"{name}.state.{k}": v for k, v in value.state_dict()["policy_state"].items()}
            state[f"{name}.seen"] = torch.tensor(value.num_seen_examples)
    return state


@pytest.mark.parametrize(("name", "arguments"), CASES, ids=str)
def test_replays_equal_steps_in_python(tiny, name, arguments):
    plain, expected, none = learn(name, **arguments)
    model, losses, replays = learn(name, LogCapture, **arguments)
    assert none == 0
    assert replays >= 5
    for (a, n), (b, m) in zip(losses, expected, strict=True):
        assert n == m
        assert a == pytest.approx(b, rel=1e-5)
    expected = of_model(plain)
    for key, value in of_model(model).items():
        torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-5, msg=key)
    assert model.opt.param_groups[0]["lr"] == plain.opt.param_groups[0]["lr"]


@pytest.fixture
def gpu_data(monkeypatch):
    """Takes the operators for data and buffers on a GPU; on a CPU they run the references."""
    monkeypatch.setattr(array_source, "supports_triton", lambda device: True)
    monkeypatch.setattr(kernel_device, "supports_triton", lambda device: True)


# DER++ draws twice in a step, so that counters advance in its middle, too.
@pytest.mark.parametrize("name", ["er", "derpp"])
@pytest.mark.usefixtures("gpu_data")
def test_data_and_reservoir_kernels_are_captured(tiny, name):
    plain, expected, _ = learn(name, epochs=6)
    captures = []
    model, losses, replays = learn(
        name, lambda m: captures.append(LogCapture(m)) or captures[-1], epochs=6
    )
    assert replays >= 5
    assert captures[0].captured == 4  # in each task, of full and of ragged batches
    assert "random" in model.buffer.state_dict()["policy_state"]
    assert [n for _, n in losses] == [n for _, n in expected]
    assert [loss for loss, _ in losses] == pytest.approx([loss for loss, _ in expected], rel=1e-5)
    expected = of_model(plain)
    for key, value in of_model(model).items():
        torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-5, msg=key)


class Seams(ContinualModel):
    """Uses what the engine offers to methods: gradients, columns, written rows, groups."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.buffer = Buffer(8, self.device)
        self.buffer.add_column("uses", dtype=torch.int64)
        self.register_buffer("grad_sum", torch.zeros(()))

    def get_parameters(self):
        head = list(self.net.classifier.parameters())
        rest = [p for p in self.net.parameters() if all(p is not q for q in head)]
        return [{"params": rest, "lr": 0.02}, {"params": head}]

    def training_loss(self, batch):
        loss = self.loss(self.net(batch.inputs), batch.labels)
        if not self.buffer.is_empty():
            index, images, labels, uses = self.buffer.get_data(4, return_index=True)
            loss = loss + self.loss(self.net(images), labels)
            self.buffer.update(index, uses=uses + 1)
        return loss

    def after_backward(self, batch):
        for parameter in self.net.parameters():
            self.grad_sum += parameter.grad.sum()
            parameter.grad.mul_(0.5)

    def after_step(self, batch):
        self.buffer.add_data(batch.not_aug_inputs, batch.labels)


@pytest.mark.parametrize(
    "arguments", [{}, {**ADAM, "lr": 0.1, "lr_scheduler": "cosine"}, {"clip_grad": 0.1}], ids=str
)
def test_seams_of_methods_are_captured(tiny, arguments):
    register_model("seams")(Seams)
    plain, expected, _ = learn("seams", **arguments)
    model, losses, replays = learn("seams", LogCapture, **arguments)
    assert replays >= 5
    assert [n for _, n in losses] == [n for _, n in expected]
    assert [loss for loss, _ in losses] == pytest.approx([loss for loss, _ in expected], rel=1e-4)
    assert model.buffer.uses.sum() > 0
    assert model.grad_sum != 0
    expected = of_model(plain) | {"sum": plain.grad_sum}
    for key, value in (of_model(model) | {"sum": model.grad_sum}).items():
        torch.testing.assert_close(value, expected[key], rtol=1e-3, atol=1e-4, msg=key)
    assert [group["lr"] for group in model.opt.param_groups] == [0.02, 0.1]


class Replaces(ContinualModel):
    """Replaces its tensors in every step instead of updating them in place."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.mean, self.last = torch.zeros(3), torch.zeros(3)
        self.register_buffer("steps", torch.zeros(()))

    def training_loss(self, batch):
        self.last = self.mean  # the former tensor of another attribute
        self.mean = 0.9 * self.mean + batch.inputs.mean((0, 2, 3))
        self.steps = self.steps + 1
        self.logits = self.net(batch.inputs)  # with fewer rows for a ragged batch
        self.loss_value = self.loss(self.logits, batch.labels)
        return self.loss_value + self.last.sum()


def test_tensors_that_a_step_replaces_are_captured(tiny):
    register_model("replaces")(Replaces)
    plain, expected, _ = learn("replaces")
    model, losses, replays = learn("replaces", LogCapture)
    assert replays == 2 * (3 * 4 - WARMUP_STEPS)  # one capture for each of two tasks
    assert [loss for loss, _ in losses] == pytest.approx([loss for loss, _ in expected], rel=1e-4)
    assert model.steps == len(losses)
    for name in ("mean", "last", "loss_value", "logits"):
        torch.testing.assert_close(getattr(model, name), getattr(plain, name), rtol=1e-3, atol=0)
    assert model.counters.task == plain.counters.task


@pytest.fixture
def model(tiny):
    model, dataset = load_runner(
        "er", "seq-tiny", {"seed": 0, "batch_size": 8, "buffer_size": 8, "compile": "off"}
    )
    model.net.train()
    dataset.meta_get_data_loaders()
    return model


def batch(size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(size, 3, 8, 8, generator=generator)
    return ready_batch((images, torch.arange(size) % 2, images))


def run(step, count, size=8):
    step.begin_epoch()
    return [step(batch(size, k), 0)[0] for k in range(count)]


def test_no_capture_before_the_buffer_is_full(model):
    model.buffer = Buffer(20)
    with training_step(model, model.compute, capture=(capture := LogCapture(model))) as step:
        run(step, 2 + WARMUP_STEPS)
        assert (step.replays, capture.captured) == (0, 0)
        run(step, 1)
        assert (step.replays, capture.captured) == (1, 1)


def test_ragged_batch_runs_in_python_and_keeps_the_graph(model):
    with training_step(model, model.compute, capture=(capture := LogCapture(model))) as step:
        run(step, WARMUP_STEPS + 1)
        run(step, 1, size=5)
        run(step, 2)
    assert (step.replays, capture.captured) == (3, 1)
    assert model.buffer.num_seen_examples == 8 * (WARMUP_STEPS + 3) + 5


def test_ragged_batches_get_a_graph_of_their_own(model):
    with training_step(model, model.compute, capture=(capture := LogCapture(model))) as step:
        run(step, WARMUP_STEPS + 1)
        for _ in range(WARMUP_STEPS):
            run(step, 1, size=5)
        assert (step.replays, capture.captured) == (1, 1)
        run(step, 1, size=5)
        run(step, 1)
        run(step, 1, size=5)
        assert (step.replays, capture.captured) == (4, 2)
        run(step, 1, size=3)  # of another task
        assert (step.replays, capture.captured) == (4, 2)
    assert model.buffer.num_seen_examples == 8 * (WARMUP_STEPS + 2) + 5 * (WARMUP_STEPS + 2) + 3


@pytest.mark.parametrize("name", ["er", "derpp"])
def test_replayed_ragged_batches_equal_steps_in_python(tiny, name):
    _, expected, _ = learn(name, epochs=6)
    captures = []
    _, losses, _ = learn(name, lambda m: captures.append(LogCapture(m)) or captures[-1], epochs=6)
    assert captures[0].captured == 4  # in each task, of full and of ragged batches
    assert [n for _, n in losses] == [n for _, n in expected]
    assert [loss for loss, _ in losses] == pytest.approx([loss for loss, _ in expected], rel=1e-5)


def test_ragged_batches_that_cannot_be_captured_run_in_python(model, monkeypatch):
    with training_step(model, model.compute, capture=(capture := LogCapture(model))) as step:
        run(step, WARMUP_STEPS + 1)

        def fail(function):
            raise RuntimeError("out of memory")

        monkeypatch.setattr(capture, "capture", fail)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(WARMUP_STEPS + 2):
                run(step, 1, size=5)
        run(step, 1)
    assert step.replays == 2
    assert model.buffer.num_seen_examples == 8 * (WARMUP_STEPS + 2) + 5 * (WARMUP_STEPS + 2)


def test_replays_return_separate_losses(model):
    with training_step(model, model.compute, capture=LogCapture(model)) as step:
        losses = run(step, WARMUP_STEPS + 4)[WARMUP_STEPS:]
    assert len({float(loss) for loss in losses}) == 4


def test_replays_use_the_current_learning_rate(model):
    with training_step(model, model.compute, capture=(capture := LogCapture(model))) as step:
        run(step, WARMUP_STEPS + 2)
        model.opt.param_groups[0]["lr"] = 0.0  # as a user's hook may
        before = [p.detach().clone() for p in model.net.parameters()]
        run(step, 2)
        for parameter, value in zip(model.net.parameters(), before, strict=True):
            assert torch.equal(parameter, value)
        assert (capture.captured, step.replays) == (1, 4)
    assert model.opt.param_groups[0]["lr"] == 0.0


def test_optimizer_settings_are_restored(model):
    model.opt = torch.optim.Adam(model.net.parameters(), lr=0.1, fused=True)
    with training_step(model, model.compute, capture=LogCapture(model)) as step:
        run(step, WARMUP_STEPS + 2)
        assert model.opt.param_groups[0]["capturable"]
    group = model.opt.param_groups[0]
    assert (group["lr"], group["capturable"]) == (0.1, False)


@pytest.mark.parametrize("what", ["weights", "frozen", "optimizer", "mode", "buffer", "rows"])
def test_replaced_tensors_cause_a_new_capture(model, what):
    with training_step(model, model.compute, capture=(capture := LogCapture(model))) as step:
        run(step, WARMUP_STEPS + 2)
        if what == "weights":
            with torch.no_grad():
                for parameter in model.net.parameters():
                    parameter.data = parameter.data.clone()
        elif what == "frozen":
            next(model.net.parameters()).requires_grad_(False)
        elif what == "buffer":
            old, model.buffer = model.buffer, Buffer(8)
            model.buffer.load_state_dict(old.state_dict())
        elif what == "rows":
            model.buffer.load_state_dict(model.buffer.state_dict())
        elif what == "optimizer":
            model.opt = model.get_optimizer()
        else:
            model.net.eval()
        run(step, WARMUP_STEPS)
        assert capture.captured == 1
        run(step, 1)
    assert capture.captured == 2


def custom(**methods):
    """Returns a model with these methods."""
    register_model("custom")(type("Custom", (ContinualModel,), methods))
    model, _ = load_runner("custom", "seq-tiny", {"seed": 0, "batch_size": 8, "compile": "off"})
    model.net.train()
    return model


def reads_a_value(self, batch):
    loss = self.loss(self.net(batch.inputs), batch.labels)
    return loss if loss.item() < 1e9 else loss * 0


def counts(self, batch):
    self.count = getattr(self, "count", 0) + 1
    return self.loss(self.net(batch.inputs), batch.labels)


def iterates(self, batch):
    return self.loss(self.net(batch.inputs), batch.labels) * (1 + 0 * self.task_iteration)


def mixes_with_python(self, batch):
    share = random.random()
    mixed = share * batch.inputs + (1 - share) * batch.inputs.flip(0)
    return self.loss(self.net(mixed), batch.labels)


def mixes_with_numpy(self, batch):
    share = float(np.random.beta(1, 1))
    mixed = share * batch.inputs + (1 - share) * batch.inputs.flip(0)
    return self.loss(self.net(mixed), batch.labels)


def changes_shape(self, batch):
    self.means = torch.ones(len(getattr(self, "means", ())) % 2 + 1)
    return self.loss(self.net(batch.inputs), batch.labels)


def collects(self, batch):
    self.history = [*getattr(self, "history", []), 1]
    return self.loss(self.net(batch.inputs), batch.labels)


@pytest.mark.parametrize(
    ("training_loss", "why"),
    [
        (reads_a_value, "operation not permitted when stream is capturing"),
        (counts, "each step changes count"),
        (collects, "each step changes history"),
        (iterates, "it reads task_iteration"),
        (mixes_with_python, "each step changes random"),
        (mixes_with_numpy, "each step changes numpy.random"),
        (changes_shape, "each step replaces means by a tensor of another shape"),
    ],
    ids=["item", "count", "list", "iteration", "random", "numpy", "shape"],
)
def test_uncapturable_step_runs_in_python_with_one_warning(tiny, training_loss, why):
    model = custom(training_loss=training_loss)
    with (
        training_step(model, model.compute, capture=LogCapture(model)) as step,
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        losses = run(step, WARMUP_STEPS + 4)
    torch.manual_seed(0)
    other = custom(training_loss=training_loss)
    with training_step(other, other.compute) as plain:
        assert run(plain, WARMUP_STEPS + 4) == losses
    (warning,) = [w for w in caught if "CUDA graph" in str(w.message)]
    for part in ("Custom", why, "--cuda_graph off"):
        assert part in str(warning.message)
    assert step.replays == 0
    assert why in step.reason
    assert isinstance(model.opt.param_groups[0]["lr"], float)


def test_backbone_with_host_state_is_not_captured(tiny, graph_counter):
    @register_backbone("draws-net")
    class DrawsNet(tiny.Net):
        def forward(self, x, returnt="out"):
            scale = 1 + 0.1 * random.random() if self.training else 1
            return super().forward(x * scale, returnt)

    args = {"seed": 0, "batch_size": 8, "backbone": "draws-net"}
    model, _ = load_runner("sgd", "seq-tiny", args)
    model.net.train()
    model.compute.compile = True
    with (
        training_step(model, model.compute, capture=LogCapture(model)) as step,
        pytest.warns(UserWarning, match="DrawsNet runs eagerly .* changes random"),
    ):
        run(step, WARMUP_STEPS + 3)
    assert (step.state, step.replays) == (StepState.DISABLED, 0)
    assert "random" in step.reason


def test_own_observe_is_not_captured_and_does_not_warn(tiny):
    def observe(self, inputs, labels, not_aug_inputs, epoch=None):
        return 0.5

    model = custom(observe=observe)
    with training_step(model, model.compute, capture=(capture := LogCapture(model))) as step:
        assert run(step, WARMUP_STEPS + 3) == [0.5] * (WARMUP_STEPS + 3)
    assert capture.captured == 0
    assert "observe" in step.reason


def test_user_errors_propagate(tiny):
    def training_loss(self, batch):
        raise ValueError("mine")

    model = custom(training_loss=training_loss)
    with (
        training_step(model, model.compute, capture=LogCapture(model)) as step,
        pytest.raises(ValueError, match="mine"),
    ):
        run(step, 1)


def test_no_capture_without_a_gpu(model):
    with training_step(model, model.compute) as step:
        run(step, WARMUP_STEPS + 2)
    assert step.replays == 0
    assert step.reason == "device cpu has no CUDA graphs"


def test_batch_of_two_parts_raises(model):
    with (
        training_step(model, model.compute) as step,
        pytest.raises(DataError, match=r"'seq-tiny'.*have 2 parts"),
    ):
        step(ready_batch(batch().tensors[:2]), 0)


@pytest.mark.usefixtures("gpu_data")
def test_a_replay_copies_no_batch(tiny, monkeypatch):
    moves = []
    move_to = static_step.EpochOrder.move_to

    def counted(self, window):
        with OperationLog() as log:
            move_to(self, window)
        moves.append(len(log.operations))

    monkeypatch.setattr(static_step.EpochOrder, "move_to", counted)
    learn("sgd", LogCapture, epochs=4)
    # In the first step of an epoch the order and the position are written, and in the first static
    # step of a task the position; never else.
    assert sum(moves) == 2 * (1 + 3 * 2)
    assert moves.count(0) > 2 * 4


def test_losses_that_are_held_survive_the_end_of_the_ring(monkeypatch):
    monkeypatch.setattr(static_step, "_CHUNK", 2)
    ring = static_step.LossRing(torch.float64, torch.device("cpu"), size=4)
    held = []
    for k in range(11):
        loss = ring.take()
        end_step([], [], torch.tensor(float(k), dtype=torch.float64), ring.values, ring.slot)
        assert loss == k
        if k % 3 == 0:
            held.append(loss)
    assert [float(loss) for loss in held] == [0, 3, 6, 9]
    assert all(loss.dtype == torch.float64 for loss in held)


@pytest.mark.parametrize("data", ["copied", "windows"])
def test_resumed_within_a_task_it_computes_the_same(run_tiny, monkeypatch, tmp_path, request, data):
    if data == "windows":
        request.getfixturevalue("gpu_data")
    steps = []

    def captured_step(model, compute, cuda_graph):
        steps.append(training_step(model, compute, cuda_graph, LogCapture(model)))
        return steps[-1]

    monkeypatch.setattr("mammoth_compiled.engine.train.training_step", captured_step)
    args = {
        **{"buffer_size": 9, "minibatch_size": 7, "n_epochs": 3, "optim_mom": 0.9},
        **{"lr_scheduler": "cosine", "dataset": "seq-tiny-augmented"},
    }
    whole, _, _ = run_tiny("er", **args)
    assert all(step.replays > 0 for step in steps)
    args |= {"checkpoint_every": "1", "resume": 1, "checkpoint_path": str(tmp_path)}
    # In the middle of an epoch with replays, and after its ragged last batch.
    for killed_after in (8, 10):
        with pytest.raises(KilledAfter.Killed):
            run_tiny("er", observers=[KilledAfter(1, killed_after)], **args)
        assert steps[-1].replays > 0 or killed_after == 10
    resumed, _, results = run_tiny("er", **args)
    assert results.notes["steps"] == 3 * 3 * 5
    for name, value in whole.net.state_dict().items():
        assert torch.equal(value, resumed.net.state_dict()[name]), name
