"""ER-ACE: old classes that are not in the stream batch take no part in its loss."""

import pytest
import torch
from torch.nn import functional as F

from mammoth_compiled import load_runner
from mammoth_compiled.types import Batch


@pytest.fixture
def model(tiny):
    args = {"buffer_size": 12, "minibatch_size": 4, "seed": 0}
    model, _ = load_runner("er-ace", "seq-tiny", args)
    model.net.eval()  # the same numbers at every call
    return model


def batch(labels):
    images = torch.randint(0, 256, (len(labels), 3, 8, 8)) / 255
    return Batch((images - 0.5) / 0.25, torch.tensor(labels), images)


def test_loss_by_hand(model):
    model.seen[:4] = True
    stream = batch([2, 2, 4])
    # Classes 2 and 4 are in the batch, 4 and 5 are new: 0, 1 and 3 are hidden.
    expected = F.cross_entropy(model.net(stream.inputs)[:, [2, 4, 5]], torch.tensor([0, 0, 1]))
    torch.testing.assert_close(model.training_loss(stream), expected)
    # All four stored images are replayed, against all six classes.
    old = batch([0, 1, 0, 3])
    model.buffer.add_data(old.not_aug_inputs, labels=old.labels)
    replay = F.cross_entropy(model.net(old.inputs), old.labels)
    torch.testing.assert_close(model.training_loss(stream), expected + replay)


def test_stream_does_not_change_the_head_of_old_classes(model):
    model.seen[:4] = True
    model.training_loss(batch([4, 5, 4])).backward()
    grad = model.net.classifier.weight.grad
    assert (grad[:4] == 0).all()
    assert (grad[4:] != 0).any(1).all()


def test_classes_are_seen_after_their_step(model):
    stream = batch([1, 5, 5])
    model.observe(stream.inputs, stream.labels, stream.not_aug_inputs)
    assert model.seen.tolist() == [False, True, False, False, False, True]
