"""Online EWC: the Fisher information, image by image, and the penalty."""

import copy

import pytest
import torch
from torch.nn import functional as F

from mammoth_compiled import load_runner
from mammoth_compiled.models import ewc_on
from mammoth_compiled.types import Batch


@pytest.fixture
def learned(tiny):
    model, dataset = load_runner("ewc-on", "seq-tiny", {"seed": 0, "e_lambda": 3.0, "gamma": 0.5})
    dataset.meta_get_data_loaders()
    model.net(torch.randn(20, 3, 8, 8))  # moves the running statistics
    return model, dataset


def fisher_by_hand(net, loader):
    net = copy.deepcopy(net).eval()
    total, images = 0, 0
    for inputs, labels, _ in loader:
        for image, label in zip(inputs, labels, strict=True):
            net.zero_grad()
            log_p = net(image[None]).log_softmax(1)[0, label]
            log_p.backward()
            total = total + log_p.exp().detach() * net.get_grads().square()
            images += 1
    return total / images


@pytest.mark.parametrize("max_gradients", [1, 2**26])
def test_fisher_is_the_mean_over_single_images(learned, monkeypatch, max_gradients):
    monkeypatch.setattr(ewc_on, "MAX_GRADIENTS", max_gradients)
    model, dataset = learned
    statistics = copy.deepcopy(dict(model.net.named_buffers()))
    first = fisher_by_hand(model.net, dataset.train_loader)
    model.end_task(dataset)
    torch.testing.assert_close(model.fisher, first, rtol=1e-4, atol=1e-7)
    # It leaves the network as it was.
    assert model.net.training
    for name, value in model.net.named_buffers():
        assert torch.equal(value, statistics[name])
    with torch.no_grad():
        for parameter in model.net.parameters():
            parameter += 0.1
    dataset.meta_get_data_loaders()
    second = fisher_by_hand(model.net, dataset.train_loader)
    model.end_task(dataset)
    torch.testing.assert_close(model.fisher, 0.5 * first + second, rtol=1e-4, atol=1e-7)
    assert torch.equal(model.anchor, model.net.get_params())


def test_penalty_by_hand(learned):
    model, dataset = learned
    batch = Batch(torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 1, 0]), torch.rand(4, 3, 8, 8))
    model.net.eval()
    plain = F.cross_entropy(model.net(batch.inputs), batch.labels)
    assert torch.equal(model.training_loss(batch), plain)
    model.end_task(dataset)
    torch.testing.assert_close(model.training_loss(batch), plain)
    model.anchor += 0.5
    penalty = model.training_loss(batch) - plain
    torch.testing.assert_close(penalty, 3.0 * 0.25 * model.fisher.sum(), rtol=1e-4, atol=1e-5)
