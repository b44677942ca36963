"""Learning without Forgetting: the new network keeps to the outputs of the previous one."""

import math

import pytest
import torch
from torch.nn import functional as F

from mammoth_compiled import load_runner
from mammoth_compiled.engine.observer import Observer
from mammoth_compiled.models.common.teacher import distillation_loss
from mammoth_compiled.types import Batch


@pytest.fixture
def second_task(tiny):
    """A model at the start of its second task, and a batch of it."""
    args = {"seed": 0, "alpha": 0.7, "softmax_temp": 2.0}
    model, dataset = load_runner("lwf", "seq-tiny", args)
    dataset.meta_get_data_loaders()
    model.end_task(dataset)
    dataset.meta_get_data_loaders()
    model.net.eval()  # the same numbers at every call
    return model, Batch(torch.randn(4, 3, 8, 8), torch.tensor([2, 3, 3, 2]), torch.rand(4, 3, 8, 8))


def test_distillation_by_hand():
    # Softened by T = 2, logits (0, 2 log 3) have probabilities (1/4, 3/4).
    logits, old_logits = torch.tensor([[0.0, 2 * math.log(3)]]), torch.zeros(1, 2)
    expected = -(math.log(1 / 4) + math.log(3 / 4)) / 2
    assert distillation_loss(logits, old_logits, 2.0).item() == pytest.approx(expected)


def test_loss_of_the_second_task(second_task):
    model, batch = second_task
    with torch.no_grad():
        model.net.classifier.bias += torch.arange(6.0)  # away from the teacher
    logits, old = model.net(batch.inputs), model.teacher(batch.inputs)
    new = F.cross_entropy(logits[:, :4], batch.labels)
    targets = (old[:, :2] / 2).softmax(1)
    distilled = -(targets * (logits[:, :2] / 2).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(model.training_loss(batch), new + 0.7 * distilled)


def test_equal_outputs_are_a_minimum_of_the_distillation(second_task):
    model, batch = second_task
    logits = model.net(batch.inputs)
    old = model.teacher(batch.inputs)
    assert torch.equal(logits, old)
    (grad,) = torch.autograd.grad(distillation_loss(logits[:, :2], old[:, :2], 2.0), logits)
    torch.testing.assert_close(grad, torch.zeros_like(grad))


def test_the_teacher_is_the_network_of_the_previous_task(run_tiny):
    teachers = []

    class Spy(Observer):
        def end_task(self, run, evaluation):
            net = [p.detach().clone() for p in run.model.net.parameters()]
            teachers.append((net, [p.clone() for p in run.model.teacher.parameters()]))

    model, _, _ = run_tiny("lwf", observers=[Spy()])
    for net, teacher in teachers[:2]:
        assert all(map(torch.equal, net, teacher))
    assert not any(p.requires_grad for p in model.teacher.parameters())
    assert not model.teacher.training
    # It does not change while the third task is learned.
    assert all(map(torch.equal, teachers[1][1], teachers[2][1]))
