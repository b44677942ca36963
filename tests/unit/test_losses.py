"""The losses of the built-in models against their papers' formulas, and what they store."""

import pytest
import torch
from torch.nn import functional as F

from mammoth_compiled import load_runner
from mammoth_compiled.types import Batch

ARGS = {"buffer_size": 12, "minibatch_size": 4, "alpha": 0.3, "beta": 0.7, "seed": 0}


@pytest.fixture
def make(tiny):
    def build(name):
        args = {
            k: v
            for k, v in ARGS.items()
            if k not in {"sgd": ARGS, "er": ("alpha", "beta"), "der": ("beta",)}.get(name, ())
        }
        model, _ = load_runner(name, "seq-tiny", args)
        model.net.eval()  # the same numbers at every call
        return model

    return build


@pytest.fixture
def batch():
    images = torch.rand(8, 3, 8, 8)
    return Batch((images - 0.5) / 0.25, torch.arange(8) % 6, images)


def spy_on_replay(model, monkeypatch):
    """Records what the buffer hands out."""
    drawn, get_data = [], model.buffer.get_data

    def record(*args, **kwargs):
        drawn.append(get_data(*args, **kwargs))
        return drawn[-1]

    monkeypatch.setattr(model.buffer, "get_data", record)
    return drawn


def fill(model, **attributes):
    images = torch.rand(12, 3, 8, 8)
    model.buffer.add_data(images, **attributes)


@pytest.mark.parametrize("name", ["sgd", "er", "der", "derpp"])
def test_first_step_is_plain_cross_entropy(make, batch, name):
    model = make(name)
    expected = F.cross_entropy(model.net(batch.inputs), batch.labels)
    assert torch.allclose(model.training_loss(batch), expected)


def test_er_learns_stream_and_replay_together(make, batch, monkeypatch):
    model = make("er")
    fill(model, labels=torch.arange(12) % 6)
    drawn = spy_on_replay(model, monkeypatch)
    loss = model.training_loss(batch)
    ((images, labels),) = drawn
    assert images.shape == (4, 3, 8, 8)
    logits = model.net(torch.cat((batch.inputs, images)))
    assert torch.allclose(loss, F.cross_entropy(logits, torch.cat((batch.labels, labels))))


def test_der_holds_to_stored_logits(make, batch, monkeypatch):
    model = make("der")
    fill(model, logits=torch.randn(12, 6))
    drawn = spy_on_replay(model, monkeypatch)
    loss = model.training_loss(batch)
    ((images, logits),) = drawn
    expected = F.cross_entropy(model.net(batch.inputs), batch.labels)
    expected = expected + 0.3 * (model.net(images) - logits).square().mean()
    assert torch.allclose(loss, expected)


def test_derpp_draws_twice(make, batch, monkeypatch):
    model = make("derpp")
    fill(model, labels=torch.arange(12) % 6, logits=torch.randn(12, 6))
    drawn = spy_on_replay(model, monkeypatch)
    loss = model.training_loss(batch)
    assert not torch.equal(drawn[0][0], drawn[1][0])
    stream = F.cross_entropy(model.net(batch.inputs), batch.labels)
    possible = []
    for (images_a, _, logits), (images_b, labels, _) in (drawn, drawn[::-1]):
        distance = (model.net(images_a) - logits).square().mean()
        possible.append(
            stream + 0.3 * distance + 0.7 * F.cross_entropy(model.net(images_b), labels)
        )
    assert any(torch.allclose(loss, expected) for expected in possible)


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("er", {"examples", "labels"}),
        ("der", {"examples", "logits"}),
        ("derpp", {"examples", "labels", "logits"}),
    ],
)
def test_what_a_step_stores(make, batch, name, stored):
    model = make(name)
    logits = model.net(batch.inputs)
    model.observe(batch.inputs, batch.labels, batch.not_aug_inputs)
    assert set(model.buffer.used_attributes) == stored
    assert torch.equal(model.buffer.examples[:8], batch.not_aug_inputs)
    if "labels" in stored:
        assert torch.equal(model.buffer.labels[:8], batch.labels)
    if "logits" in stored:  # those of before the update
        assert torch.allclose(model.buffer.logits[:8], logits)


def test_replay_is_normalised_as_the_stream(make, batch, monkeypatch):
    model = make("er")
    exact = torch.randint(0, 256, (8, 3, 8, 8)) / 255
    model.buffer.add_data(exact, labels=torch.zeros(8))
    drawn = spy_on_replay(model, monkeypatch)
    model.training_loss(batch)
    expected = {tuple(((i - 0.5) / 0.25).flatten().tolist()) for i in exact}
    assert {tuple(i.flatten().tolist()) for i in drawn[0][0]} <= expected
