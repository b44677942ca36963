"""MIR: which images are replayed."""

import torch
from torch.nn import functional as F

from mammoth_compiled import load_runner
from mammoth_compiled.types import Batch


def make(**args):
    args = {"seed": 0, "lr": 0.5, "batch_size": 8, "buffer_size": 20, "compile": "off", **args}
    model, dataset = load_runner("mir", "seq-tiny", args)
    loader, _ = dataset.meta_get_data_loaders()
    batch, stored = (Batch(*b) for _, b in zip(range(2), loader, strict=False))
    model.net.drop.p = 0.0
    model.buffer.add_data(stored.not_aug_inputs, labels=stored.labels)
    return model, batch


def losses(model, images, labels):
    model.net.eval()
    with torch.no_grad():
        result = F.cross_entropy(model.net(images), labels, reduction="none")
    model.net.train()
    return result


def test_interference_is_the_increase_of_the_loss_by_a_step_on_the_stream(tiny):
    model, batch = make()
    state = {name: value.clone() for name, value in model.net.state_dict().items()}
    images, labels = model.buffer.get_all_data(model.transform)
    interference = model.interference(batch, images, labels)
    assert all(torch.equal(model.net.state_dict()[name], state[name]) for name in state)
    assert all(p.grad is None for p in model.net.parameters())
    before = losses(model, images, labels)
    model.loss(model.net(batch.inputs), batch.labels).backward()
    for name, buffer in model.net.named_buffers():
        buffer.copy_(state[name])
    torch.optim.SGD(model.net.parameters(), lr=0.5).step()
    torch.testing.assert_close(interference, losses(model, images, labels) - before)


def test_the_most_interfered_candidates_are_replayed(tiny):
    model, batch = make(minibatch_size=3, n_candidates=8)
    images, labels = model.buffer.get_all_data(model.transform)
    interference = model.interference(batch, images, labels)
    chosen, classes = model.replay(batch)
    assert chosen.shape == (3, 3, 8, 8)
    expected = interference.topk(3).indices
    assert {tuple(i) for i in chosen.flatten(1).tolist()} == {
        tuple(i) for i in images[expected].flatten(1).tolist()
    }
    assert sorted(classes.tolist()) == sorted(labels[expected].tolist())
