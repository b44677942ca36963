"""The recorded training step does what the step in Python does.

A tape stands for the CUDA graph: it writes down the operations of a step with the tensors they
read and fill, and a replay does them again on the same memory. As on a GPU, what Python does is not
repeated, and an operation that reads a value cannot be recorded.
"""

import contextlib
import warnings

import pytest
import torch
from gpu_on_paper import READS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from mammoth_compiled import Buffer, ContinualModel, get_model_names, load_runner, register_model
from mammoth_compiled.data import source
from mammoth_compiled.data import ready_batch
from mammoth_compiled.engine.step import REHEARSALS, Step
from mammoth_compiled.errors import DataError
from mammoth_compiled.kernels import launch


class Tape(TorchDispatchMode):
    """Writes operations down."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in READS:
            raise RuntimeError("operation not permitted when stream is capturing")
        result = func(*args, **(kwargs or {}))
        # Other tensors on the same memory: autograd's history has no part in a replay.
        self.lines.append(
            (func, *tree_map_only(torch.Tensor, torch.Tensor.detach, (args, kwargs or {}, result)))
        )
        return result

    @torch.no_grad()
    def replay(self):
        for func, args, kwargs, result in self.lines:
            given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
            storages = {t.untyped_storage().data_ptr() for t in given}
            for old, new in zip(
                tree_leaves(result), tree_leaves(func(*args, **kwargs)), strict=True
            ):
                # Views and what is changed in place lie in the memory of what was given.
                if isinstance(old, torch.Tensor) and (
                    old.untyped_storage().data_ptr() not in storages
                ):
                    old.copy_(new)


class TapeRecorder:
    """Records tapes; weights and buffers stay as they were while it does, as on a GPU."""

    def __init__(self, model):
        self.model = model
        self.recorded = 0
        self.loader = None

    def rehearse(self):
        return contextlib.nullcontext()

    def record(self, function):
        tensors = [*self.model.parameters(), *self.model.buffers()]
        for state in self.model.opt.state.values():
            tensors += [t for t in state.values() if isinstance(t, torch.Tensor)]
        for buffer in vars(self.model).values():
            if isinstance(buffer, Buffer):
                tensors += buffer.tensors()
        if self.loader is not None:
            tensors += self.loader.state_tensors()
        before = [t.detach().clone() for t in tensors]
        random = torch.get_rng_state()
        try:
            with Tape() as tape:
                result = function()
        finally:
            with torch.no_grad():
                for tensor, value in zip(tensors, before, strict=True):
                    tensor.copy_(value)
            torch.set_rng_state(random)
        self.recorded += 1
        return tape.replay, result


# Batch norm would leave noise as the gradient of the bias before it, which Adam makes large.
ADAM = {"optimizer": "adam", "lr": 0.001, "backbone": "mnistmlp", "input_size": 192}
ARGUMENTS = {
    "sgd": [{}, {"optim_mom": 0.9, "lr_scheduler": "cosine"}, ADAM],
    "joint": [{}],
    "er": [{}, {"buffer_policy": "ring"}, {"buffer_policy": "class-balanced"}, {"clip_grad": 0.5}],
    "der": [{"alpha": 0.1}],
    "derpp": [{"alpha": 0.1, "beta": 0.1}, {"alpha": 0.1, "beta": 0.1, "buffer_policy": "herding"}],
}


def learn(name, recorder_of, epochs=3, **arguments):
    """Trains on two tasks and returns the model, its losses and its recorder."""
    if name not in ("sgd", "joint"):
        arguments = {"buffer_size": 12, "minibatch_size": 8, **arguments}
    arguments = {"seed": 0, "lr": 0.1, "batch_size": 8, "n_epochs": epochs, **arguments}
    model, dataset = load_runner(name, "seq-tiny-augmented", {"compile": "off", **arguments})
    recorder = recorder_of(model)
    losses, replays = [], 0
    model.net.train()
    for _ in range(min(2, dataset.num_stages)):
        loader, _ = dataset.meta_get_data_loaders()
        model.begin_task(dataset)
        if recorder is not None:
            recorder.loader = loader
        with Step(model, "seq-tiny-augmented", recorder) as step:
            for epoch in range(epochs):
                step.begin_epoch()
                for lazy in loader.lazy_batches():
                    loss, count = step(lazy, epoch)
                    losses.append((float(loss), count))
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


CASES = [(name, a) for name in get_model_names() for a in ARGUMENTS[name]]


@pytest.mark.parametrize(("name", "arguments"), CASES, ids=str)
def test_replays_equal_steps_in_python(tiny, name, arguments):
    plain, expected, none = learn(name, lambda model: None, **arguments)
    model, losses, replays = learn(name, TapeRecorder, **arguments)
    assert none == 0
    assert replays >= 5
    for (a, n), (b, m) in zip(losses, expected, strict=True):
        assert n == m
        assert a == pytest.approx(b, rel=1e-5)
    expected = of_model(plain)
    for key, value in of_model(model).items():
        torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-5, msg=key)
    assert model.opt.param_groups[0]["lr"] == plain.opt.param_groups[0]["lr"]


def test_kernels_of_data_and_reservoir_are_recorded_too(tiny, monkeypatch):
    # As on a GPU; on a CPU their operators compute the references.
    monkeypatch.setattr(source, "supports", lambda device: True)
    monkeypatch.setattr(launch, "supports", lambda device: True)
    plain, expected, _ = learn("er", lambda model: None)
    model, losses, replays = learn("er", TapeRecorder)
    assert replays >= 5
    assert "random" in model.buffer.state_dict()["policy_state"]
    assert [n for _, n in losses] == [n for _, n in expected]
    assert [loss for loss, _ in losses] == pytest.approx([loss for loss, _ in expected], rel=1e-5)
    expected = of_model(plain)
    for key, value in of_model(model).items():
        torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-5, msg=key)


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


def test_nothing_is_recorded_before_the_buffer_is_settled(model):
    model.buffer = Buffer(20)
    with Step(model, "tiny", recorder := TapeRecorder(model)) as step:
        run(step, 2 + REHEARSALS)
        assert (step.replays, recorder.recorded) == (0, 0)
        run(step, 1)
        assert (step.replays, recorder.recorded) == (1, 1)


def test_a_ragged_batch_is_run_in_python_and_the_recording_stays(model):
    with Step(model, "tiny", recorder := TapeRecorder(model)) as step:
        run(step, REHEARSALS + 1)
        run(step, 1, size=5)
        run(step, 2)
    assert (step.replays, recorder.recorded) == (3, 1)
    assert model.buffer.num_seen_examples == 8 * (REHEARSALS + 3) + 5


def test_losses_of_replays_are_kept_apart(model):
    with Step(model, "tiny", TapeRecorder(model)) as step:
        losses = run(step, REHEARSALS + 4)[REHEARSALS:]
    assert len({float(loss) for loss in losses}) == 4


def test_step_sizes_reach_recordings(model):
    with Step(model, "tiny", recorder := TapeRecorder(model)) as step:
        run(step, REHEARSALS + 2)
        model.opt.param_groups[0]["lr"] = 0.0  # as a hook of the user's may
        before = [p.detach().clone() for p in model.net.parameters()]
        run(step, 2)
        for parameter, value in zip(model.net.parameters(), before, strict=True):
            assert torch.equal(parameter, value)
        assert (recorder.recorded, step.replays) == (1, 4)
    assert model.opt.param_groups[0]["lr"] == 0.0


def test_what_the_optimiser_was_given_is_put_back(model):
    model.opt = torch.optim.Adam(model.net.parameters(), lr=0.1, fused=True)
    with Step(model, "tiny", TapeRecorder(model)) as step:
        run(step, REHEARSALS + 2)
        assert model.opt.param_groups[0]["capturable"]
    group = model.opt.param_groups[0]
    assert (group["lr"], group["capturable"]) == (0.1, False)


@pytest.mark.parametrize("what", ["weights", "frozen", "optimiser", "mode", "buffer", "rows"])
def test_it_is_recorded_anew_where_something_moved(model, what):
    with Step(model, "tiny", recorder := TapeRecorder(model)) as step:
        run(step, REHEARSALS + 2)
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
        elif what == "optimiser":
            model.opt = model.get_optimizer()
        else:
            model.net.eval()
        run(step, REHEARSALS)
        assert recorder.recorded == 1
        run(step, 1)
    assert recorder.recorded == 2


def custom(**methods):
    """Returns a model of these methods, compiled as far as a Step knows."""
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


def collects(self, batch):
    self.history = [*getattr(self, "history", []), 1]
    return self.loss(self.net(batch.inputs), batch.labels)


@pytest.mark.parametrize(
    ("training_loss", "why"),
    [
        (reads_a_value, "operation not permitted when stream is capturing"),
        (counts, "each step changes count"),
        (collects, "each step changes history"),
    ],
    ids=["item", "count", "list"],
)
def test_what_cannot_be_recorded_runs_in_python_with_one_warning(tiny, training_loss, why):
    model = custom(training_loss=training_loss)
    with (
        Step(model, "tiny", TapeRecorder(model)) as step,
        warnings.catch_warnings(record=True) as said,
    ):
        warnings.simplefilter("always")
        losses = run(step, REHEARSALS + 4)
    torch.manual_seed(0)
    other = custom(training_loss=training_loss)
    with Step(other, "tiny") as plain:
        assert run(plain, REHEARSALS + 4) == losses
    (warning,) = [w for w in said if "CUDA graph" in str(w.message)]
    for part in ("Custom", why, "--cuda_graph off"):
        assert part in str(warning.message)
    assert step.replays == 0
    assert why in step.reason
    assert isinstance(model.opt.param_groups[0]["lr"], float)


def test_an_observe_of_its_own_is_not_recorded_and_nothing_is_said(tiny):
    def observe(self, inputs, labels, not_aug_inputs, epoch=None):
        return 0.5

    model = custom(observe=observe)
    with Step(model, "tiny", recorder := TapeRecorder(model)) as step:
        assert run(step, REHEARSALS + 3) == [0.5] * (REHEARSALS + 3)
    assert recorder.recorded == 0
    assert "observe" in step.reason


def test_an_error_of_the_users_is_shown_as_it_is(tiny):
    def training_loss(self, batch):
        raise ValueError("mine")

    model = custom(training_loss=training_loss)
    with Step(model, "tiny", TapeRecorder(model)) as step, pytest.raises(ValueError, match="mine"):
        run(step, 1)


def test_without_a_gpu_nothing_is_recorded(model):
    with Step(model, "tiny") as step:
        run(step, REHEARSALS + 2)
    assert step.replays == 0
    assert "no GPU" in step.reason


def test_a_batch_of_two_parts_is_refused(model):
    with Step(model, "tiny") as step, pytest.raises(DataError, match=r"'tiny'.*have 2 parts"):
        step(ready_batch(batch().tensors[:2]), 0)
