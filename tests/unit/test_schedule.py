"""Learning rate schedules within a task, and gradient clipping."""

import math

import pytest
import torch

from mammoth_compiled import load_runner
from mammoth_compiled.errors import ConfigError


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
