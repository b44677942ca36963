"""Learning rate schedules within a task, and gradient clipping."""

import math

import pytest
import torch

from mammoth_compiled import load_runner, register_model
from mammoth_compiled.engine.schedule import Schedule
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.models.sgd import SGD


@pytest.fixture
def lrs(run_tiny, monkeypatch):
    """Returns a function that trains and returns the learning rate of each epoch of each task."""

    def run(**args):
        seen = []

        def record(self, epoch, dataset):
            seen.append(self.opt.param_groups[0]["lr"])

        monkeypatch.setattr("mammoth_compiled.models.sgd.SGD.begin_epoch", record)
        model, _, _ = run_tiny(lr=0.1, n_epochs=4, **args)
        assert model.opt.param_groups[0]["lr"] == 0.1
        return seen

    return run


def test_constant(lrs):
    assert lrs() == [0.1] * 12


def test_cosine_restarts_with_each_task(lrs):
    task = [0.05 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(4)]
    assert lrs(lr_scheduler="cosine") == pytest.approx(task * 3)


def test_multistep(lrs):
    got = lrs(lr_scheduler="multistep", lr_milestones=[1, 3], lr_gamma=0.5)
    assert got == pytest.approx([0.1, 0.05, 0.05, 0.025] * 3)


@pytest.mark.parametrize("args", [{"lr_scheduler": "multistep"}, {"lr_milestones": [2]}])
def test_milestones_without_multistep_raise(tiny, args):
    with pytest.raises(ConfigError, match="go together"):
        load_runner("sgd", "seq-tiny", args)


def test_run_with_a_schedule_resumes_exactly(run_tiny, tmp_path):
    args = {"lr_scheduler": "cosine", "n_epochs": 2, "checkpoint_path": str(tmp_path)}
    _, _, whole = run_tiny(savecheck="task", **args)
    first = next(tmp_path.glob("*_task1.pt"))
    _, _, resumed = run_tiny(loadcheck=str(first), **args)
    assert resumed.class_il == whole.class_il


def test_gradients_are_clipped(tiny):
    model, dataset = load_runner("sgd", "seq-tiny", {"clip_grad": 0.01, "lr": 1.0, "seed": 0})
    loader, _ = dataset.meta_get_data_loaders()
    before = torch.cat([p.detach().flatten() for p in model.net.parameters()])
    model.observe(*next(iter(loader)), epoch=0)
    moved = torch.cat([p.detach().flatten() for p in model.net.parameters()]) - before
    assert moved.norm() == pytest.approx(0.01, rel=1e-3)


class TwoRates(SGD):
    """Its head learns ten times faster than its features; from task 1 on the features are fixed."""

    task = -1

    def begin_task(self, dataset):
        self.task += 1
        self.opt = self.get_optimizer()

    def get_parameters(self):
        head = {"params": self.net.classifier.parameters()}
        features = {"params": self.net.conv.parameters(), "lr": self.args.lr / 10}
        return [head] if self.task > 0 else [head, features]


def test_groups_keep_their_ratio_under_a_schedule(run_tiny, monkeypatch):
    seen = []
    monkeypatch.setattr(
        TwoRates,
        "begin_epoch",
        lambda self, epoch, dataset: seen.append([g["lr"] for g in self.opt.param_groups]),
    )
    register_model("two-rates")(TwoRates)
    run_tiny("two-rates", lr=0.1, n_epochs=4, lr_scheduler="multistep", lr_milestones=[2])
    first, second = ([lr for rates in epochs for lr in rates] for epochs in (seen[:4], seen[4:8]))
    assert first == pytest.approx([0.1, 0.01] * 2 + [0.01, 0.001] * 2)
    assert second == pytest.approx([0.1] * 2 + [0.01] * 2)


def test_a_run_whose_groups_change_resumes_exactly(run_tiny, tmp_path):
    register_model("two-rates")(TwoRates)
    args = {"optim_mom": 0.9, "checkpoint_path": str(tmp_path), "seed": 3}
    whole, _, _ = run_tiny("two-rates", savecheck="task", **args)
    second = next(tmp_path.glob("*_task2.pt"))
    resumed, _, _ = run_tiny("two-rates", loadcheck=str(second), **args)
    assert torch.equal(resumed.net.get_params(), whole.net.get_params())


def test_gradients_are_unscaled_before_the_hook(tiny):
    @register_model("halves-gradients")
    class HalvesGradients(SGD):
        def after_backward(self, batch):
            self.seen = self.net.get_grads().clone()
            for parameter in self.net.parameters():
                parameter.grad.mul_(0.5)

    model, dataset = load_runner("halves-gradients", "seq-tiny", {"lr": 1.0, "seed": 0})
    model.net.eval()  # dropout would change the gradients from call to call
    batch = next(iter(dataset.meta_get_data_loaders()[0]))
    model.loss(model.net(batch[0]), batch[1]).backward()
    expected, before = model.net.get_grads(), model.net.get_params().detach().clone()
    model.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    model.observe(*batch, epoch=0)
    torch.testing.assert_close(model.seen, expected)
    torch.testing.assert_close(before - model.net.get_params(), 0.5 * expected)


@pytest.fixture
def step_lrs(run_tiny, monkeypatch):
    """Returns a function that trains a model: learning rate of each step, 5 steps an epoch."""

    def run(model="sgd", **args):
        seen = []

        def record(self, batch):
            seen.append(float(self.opt.param_groups[0]["lr"]))

        monkeypatch.setattr("mammoth_compiled.models.sgd.SGD.after_step", record)
        run_tiny(model, lr=0.1, n_epochs=2, **args)
        return seen

    return run


def test_schedules_may_change_the_rate_after_each_step(step_lrs):
    task = [0.05 * (1 + math.cos(math.pi * step / 10)) for step in range(10)]
    got = step_lrs(lr_scheduler="cosine", scheduler_mode="iter")
    assert got == pytest.approx(task * 3)
    got = step_lrs(lr_scheduler="multistep", lr_milestones=[1, 7], scheduler_mode="iter")
    assert got == pytest.approx(([0.1] + [0.01] * 6 + [0.001] * 3) * 3)


class OwnSchedule(SGD):
    """Halves its learning rate, as Mammoth's models with a `custom_scheduler` do."""

    RESET_OPTIMIZER = True

    def begin_task(self, dataset):
        self.custom_scheduler = torch.optim.lr_scheduler.MultiStepLR(self.opt, [1, 2], gamma=0.5)


class SteppedByItself(OwnSchedule):
    def end_epoch(self, epoch, dataset):
        self.custom_scheduler.step()


@pytest.mark.parametrize("model", [OwnSchedule, SteppedByItself])
def test_the_scheduler_of_a_model_is_stepped_once(step_lrs, model):
    register_model("own-schedule")(model)
    assert step_lrs("own-schedule", lr_scheduler="cosine") == ([0.1] * 5 + [0.05] * 5) * 3


def test_the_scheduler_of_a_model_may_change_the_rate_after_each_step(step_lrs):
    register_model("own-schedule")(OwnSchedule)
    got = step_lrs("own-schedule", scheduler_mode="iter")
    assert got == ([0.1, 0.05] + [0.025] * 8) * 3


@pytest.mark.parametrize("save", [{"savecheck": "task"}, {"checkpoint_every": 3}])
@pytest.mark.parametrize("mode", ["epoch", "iter"])
def test_a_run_with_a_scheduler_of_the_model_resumes_exactly(
    run_tiny, monkeypatch, tmp_path, recwarn, save, mode
):
    register_model("own-schedule")(OwnSchedule)
    rates = []
    monkeypatch.setattr(
        SGD, "after_step", lambda self, batch: rates.append(self.opt.param_groups[0]["lr"])
    )
    args = {"checkpoint_path": str(tmp_path), "seed": 3, "n_epochs": 2, "scheduler_mode": mode}
    whole, _, _ = run_tiny("own-schedule", **save, **args)
    expected, rates[:] = rates[:], []
    first = sorted(tmp_path.glob("*.pt"))[0]
    resumed, _, _ = run_tiny("own-schedule", loadcheck=str(first), **args)
    assert rates == expected[-len(rates) :]
    assert 0 < len(rates) < 30
    assert torch.equal(resumed.net.get_params(), whole.net.get_params())
    assert not [str(w.message) for w in recwarn if "created while training" in str(w.message)]


def test_a_rate_on_the_device_is_written_and_never_read():
    class OnDevice(torch.Tensor):
        def __float__(self):
            raise AssertionError("a host sync")

        item = tolist = __float__

    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    rates = Schedule(scheduler, every_step=True)
    tensor = optimizer.param_groups[0]["lr"] = torch.tensor(0.1).as_subclass(OnDevice)
    optimizer.step()
    for _ in range(3):
        rates.end_step()
        rates.end_epoch()
    assert optimizer.param_groups[0]["lr"] is tensor
    assert torch.equal(tensor.as_subclass(torch.Tensor), torch.tensor(0.1 / 8))
