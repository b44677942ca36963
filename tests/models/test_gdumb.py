"""GDumb: a class-balanced buffer, and training from scratch on it alone."""

import pytest
import torch
from torch.nn import functional as F

from mammoth_compiled import load_runner
from mammoth_compiled.models.gdumb import cutmix
from mammoth_compiled.types import Batch


@pytest.fixture
def make(tiny):
    def build(**args):
        return load_runner("gdumb", "seq-tiny", {"seed": 0, "buffer_size": 12, **args})

    return build


def test_tasks_start_from_the_initial_weights_and_a_balanced_buffer(make):
    model, dataset = make(optim_mom=0.9)
    initial = [p.detach().clone() for p in model.net.parameters()]
    for shares in ([6, 6], [3, 3, 3, 3], [2, 2, 2, 2, 2, 2]):
        dataset.meta_get_data_loaders()
        model.begin_task(dataset)
        assert model.buffer.labels.bincount().tolist() == shares
        assert all(map(torch.equal, model.net.parameters(), initial))
        assert not model.opt.state
        model.begin_epoch(0, dataset)
        batches = list(dataset.train_loader)
        # An epoch is one pass over the buffer.
        labels = torch.cat([batch[1] for batch in batches])
        assert labels.bincount().tolist() == shares
        images = torch.cat([batch[2] for batch in batches]).flatten(1)
        assert {tuple(i.tolist()) for i in images} == {
            tuple(i.flatten().tolist()) for i in model.buffer.examples
        }
        model.observe(*batches[0])
        assert not torch.equal(model.net.conv.weight, initial[0])
        model.end_task(dataset)
        assert len(dataset.train_loader.dataset) == 36


def test_own_schedule_yields_to_the_chosen_one(make):
    for name, expected in (("none", 0.01), ("cosine", 0.1)):
        model, dataset = make(lr=0.1, lr_scheduler=name)
        model.begin_epoch(0, dataset)
        assert model.opt.param_groups[0]["lr"] == pytest.approx(expected)


def test_cutmix_by_hand(monkeypatch):
    # One image is all 0, the other all 1; a quarter of the pixels is pasted around the center.
    inputs = torch.arange(2.0)[:, None, None, None].expand(2, 1, 8, 8)
    draws = iter([torch.tensor([0.75, 0.5, 0.5, 0.3]), torch.tensor([0.9, 0.1])])
    monkeypatch.setattr(torch, "rand", lambda *_, **__: next(draws))
    mixed, labels, share = cutmix(inputs, torch.tensor([3, 5]), 0.4)
    assert labels.tolist() == [5, 3]
    pasted = torch.zeros(8, 8)
    pasted[3:6, 3:6] = 1.0  # positions 3/8, 4/8, 5/8 are nearer than 1/4 to 1/2
    assert torch.equal(mixed[0, 0], pasted)
    assert torch.equal(mixed[1, 0], 1 - pasted)
    assert share.item() == pytest.approx(1 - 9 / 64)


def test_cutmix_is_applied_with_its_probability():
    inputs, labels = torch.rand(4, 3, 8, 8), torch.arange(4)
    for _ in range(5):
        mixed, _, share = cutmix(inputs, labels, 0.0)
        assert torch.equal(mixed, inputs)
        assert share == 1
    assert sum(cutmix(inputs, labels, 0.5)[2].item() < 1 for _ in range(200)) in range(70, 131)


def test_loss_weighs_both_labels_by_their_pixels(make, monkeypatch):
    model, _ = make(cutmix_prob=1.0)
    model.net.eval()
    images, labels = torch.randn(2, 3, 8, 8), torch.tensor([0, 1])
    mixed = (images, labels.flip(0), torch.tensor(0.75))
    monkeypatch.setattr("mammoth_compiled.models.gdumb.cutmix", lambda *_: mixed)
    logits = model.net(images)
    own, pasted = (F.cross_entropy(logits, y) for y in (labels, labels.flip(0)))
    loss = model.training_loss(Batch(images, labels, images))
    torch.testing.assert_close(loss, 0.75 * own + 0.25 * pasted)


def test_noisy_labels_are_trained_on_and_true_ones_kept(run_tiny):
    model, _, results = run_tiny("gdumb", buffer_size=60, noise_rate=0.4)
    assert results.train_images == [36, 60, 60]
    wrong = (model.buffer.labels != model.buffer.true_labels).float().mean()
    assert 0.1 < wrong < 0.7
