"""A-GEM: the projection of gradients."""

import pytest
import torch

from mammoth_compiled import load_runner
from mammoth_compiled.models.agem import project


def test_projected_gradient_does_not_increase_the_reference_loss():
    gradients, reference = [torch.randn(3, 4), torch.randn(5)], [torch.randn(3, 4), torch.randn(5)]
    g, r = (torch.cat([t.flatten() for t in tensors]) for tensors in (gradients, reference))
    if g @ r > 0:
        gradients, g = [-t for t in gradients], -g
    project(gradients, reference)
    projected = torch.cat([t.flatten() for t in gradients])
    torch.testing.assert_close(projected, g - (g @ r) / (r @ r) * r)
    assert abs(projected @ r) < 1e-5


@pytest.mark.parametrize("reference", [torch.tensor([1.0, 0.5]), torch.zeros(2)])
def test_agreeing_gradients_stay_as_they_are(reference):
    gradient = torch.tensor([1.0, 1.0])
    project([gradient], [reference])
    assert torch.equal(gradient, torch.ones(2))


@pytest.mark.parametrize("sign", [1, -1])
def test_step_follows_the_projected_gradient(tiny, sign):
    """Stream and memory are the same images: with equal labels gradients agree."""
    args = {"seed": 0, "lr": 0.1, "batch_size": 8, "minibatch_size": 8, "buffer_size": 8}
    model, dataset = load_runner("agem", "seq-tiny", {**args, "compile": "off"})
    model.net.drop.p = 0.0
    loader, _ = dataset.meta_get_data_loaders()
    inputs, labels, images = next(iter(loader))
    model.buffer.add_data(images, labels=labels if sign == 1 else 1 - labels)
    for _ in range(20):  # what the network has learned contradicts the other labels
        model.opt.zero_grad()
        model.loss(model.net(inputs), labels).backward()
        model.opt.step()
    before = model.net.get_params().detach().clone()
    loss = model.loss(model.net(inputs), labels)
    stream = torch.cat([g.flatten() for g in torch.autograd.grad(loss, model.net.parameters())])
    stored = model.buffer.get_all_data(model.transform)
    loss = model.loss(model.net(stored[0]), stored[1])
    memory = torch.cat([g.flatten() for g in torch.autograd.grad(loss, model.net.parameters())])
    model.observe(inputs, labels, images)
    step = (before - model.net.get_params()) / 0.1
    assert sign * (stream @ memory) > 0
    if sign == -1:
        stream = stream - (stream @ memory) / (memory @ memory) * memory
    torch.testing.assert_close(step, stream, rtol=1e-3, atol=1e-5)
