"""Mammoth's learning rate schedules."""

import math
from argparse import Namespace

import pytest
import torch

from mammoth_compiled import register_model
from mammoth_compiled.compat.mammoth.model import ContinualModel
from mammoth_compiled.compat.mammoth.schedulers import (
    CosineSchedule,
    CosineSchedulerWithLinearWarmup,
    get_scheduler,
)


def rates(optimizer, scheduler, count):
    seen = []
    for _ in range(count):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return seen


@pytest.fixture
def optimizer():
    groups = [{"params": [torch.zeros(1)], "lr": lr} for lr in (0.1, 1.0)]
    return torch.optim.SGD(groups, lr=0.1)


def test_cosine_ends_just_above_zero(optimizer):
    seen = rates(optimizer, CosineSchedule(optimizer, K=3), 3)
    factors = [1.0, math.cos(99 * math.pi / 400), math.cos(99 * math.pi / 200)]
    assert seen == [pytest.approx([0.1 * f, f]) for f in factors]
    with pytest.raises(ValueError, match="at least 2 epochs, got K = 1"):
        CosineSchedule(optimizer, K=1)


def test_warmup_is_linear_and_the_rest_a_cosine(optimizer):
    scheduler = CosineSchedulerWithLinearWarmup(optimizer, [0.2, 2.0], warmup_length=2, steps=6)
    factors = [0.5, 1.0, 1.0, (1 + math.cos(math.pi / 4)) / 2, 0.5]
    assert rates(optimizer, scheduler, 5) == [pytest.approx([0.2 * f, 2 * f]) for f in factors]


def test_the_schedule_of_the_arguments(optimizer):
    model = Namespace(opt=optimizer, get_optimizer=lambda: optimizer)
    args = Namespace(lr_scheduler="none", lr_milestones=[1], lr_gamma=0.5, n_epochs=4)
    assert get_scheduler(model, args) is None
    args.lr_scheduler = "multistep"
    assert rates(optimizer, get_scheduler(model, args), 2) == [[0.1, 1.0], [0.05, 0.5]]
    args.lr_scheduler = "cosine"
    assert get_scheduler(model, args, reload_optim=False).T_max == 4


def test_the_loop_steps_the_schedule_of_a_model(run_tiny):
    seen = []

    @register_model("warms-up")
    class WarmsUp(ContinualModel):
        def begin_task(self, dataset):
            steps = len(dataset.train_loader)
            self.custom_scheduler = CosineSchedulerWithLinearWarmup(self.opt, 0.4, 2, steps)

        def observe(self, inputs, labels, not_aug_inputs, epoch=None):
            seen.append(self.opt.param_groups[0]["lr"])
            self.opt.zero_grad()
            loss = self.loss(self.net(inputs), labels)
            loss.backward()
            self.opt.step()
            return loss.item()

    run_tiny("warms-up", scheduler_mode="iter")
    third = 0.2 * (1 + math.cos(math.pi / 3))
    assert seen == pytest.approx([0.2, 0.4, 0.4, third, 0.4 - third] * 3)
