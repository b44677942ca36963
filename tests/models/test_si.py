"""Synaptic Intelligence: the path integral, the importance and the penalty."""

import pytest
import torch
from torch.nn import functional as F

from mammoth_compiled import load_runner
from mammoth_compiled.types import Batch


@pytest.fixture
def model(tiny):
    args = {"seed": 0, "c": 0.5, "xi": 0.1, "lr": 0.1, "optim_mom": 0.9}
    model, _ = load_runner("si", "seq-tiny", args)
    model.net.eval()  # the gradient can be computed again
    return model


def batch(seed):
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return Batch(images, torch.tensor([0, 1, 1, 0]), images)


def gradient_of_loss(model, batch):
    loss = F.cross_entropy(model.net(batch.inputs), batch.labels)
    grads = torch.autograd.grad(loss, list(model.net.parameters()))
    return torch.cat([grad.flatten() for grad in grads])


def test_path_integral_of_the_real_steps_without_the_penalty(model):
    with torch.no_grad():
        model.importance += 2.0
        model.anchor += 0.1
    expected = torch.zeros_like(model.path)
    for seed in range(3):
        stream, before = batch(seed), model.net.get_params().detach()
        gradient = gradient_of_loss(model, stream)
        model.observe(stream.inputs, stream.labels, stream.not_aug_inputs)
        expected -= gradient * (model.net.get_params().detach() - before)
    torch.testing.assert_close(model.path, expected, rtol=1e-4, atol=1e-6)


def test_importance_by_hand(model):
    weights = model.net.get_params().detach()
    model.anchor.copy_(weights - 0.2)
    model.path.fill_(0.3)
    model.path[0] = -1.0  # counts as 0
    model.end_task(model.dataset)
    expected = torch.full_like(weights, 0.3 / (0.04 + 0.1))
    expected[0] = 0
    torch.testing.assert_close(model.importance, expected, rtol=1e-4, atol=0)
    assert torch.equal(model.anchor, weights)
    assert not model.path.any()


def test_penalty_by_hand(model):
    stream = batch(0)
    plain = F.cross_entropy(model.net(stream.inputs), stream.labels)
    torch.testing.assert_close(model.training_loss(stream), plain)
    with torch.no_grad():
        model.importance += 2.0
        model.anchor += 0.1
    penalty = model.training_loss(stream) - plain
    expected = 0.5 * 2.0 * 0.01 * len(model.anchor)
    assert penalty.item() == pytest.approx(expected, rel=1e-4)


def test_a_step_that_overflows_leaves_no_trace(model):
    stream = batch(0)
    model.path.fill_(1.0)
    model.before.copy_(model.net.get_params())
    model.gradient.fill_(torch.inf)
    model.gradient[0] = torch.nan
    with torch.no_grad():
        model.after_step(stream)
    assert (model.path == 1).all()
