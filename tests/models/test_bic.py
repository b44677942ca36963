"""Bias correction: validation images, distillation, and the fitted bias."""

import pytest
import torch
from torch.nn import functional as F

from mammoth_compiled import load_runner
from mammoth_compiled.data import apply_transform
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.models.bic import TEMPERATURE, fit_bias
from mammoth_compiled.models.common.teacher import distillation_loss
from mammoth_compiled.types import Batch


def test_fit_recovers_a_known_bias():
    generator = torch.Generator().manual_seed(0)
    unbiased = 2 * torch.randn(20_000, 4, generator=generator)
    labels = torch.multinomial(unbiased.softmax(1), 1, generator=generator)[:, 0]
    biased = unbiased.clone()
    biased[:, 2:] = (biased[:, 2:] + 3) / 0.5
    alpha, beta = fit_bias(biased, labels, first=2)
    assert alpha == pytest.approx(0.5, abs=0.05)
    assert beta == pytest.approx(-3, abs=0.2)


def test_fit_is_finite_if_classes_are_separated():
    alpha, beta = fit_bias(20 * torch.eye(4), torch.arange(4), first=2)
    assert abs(alpha) < 100
    assert abs(beta) < 100


def test_validation_images_are_balanced_and_never_trained_on(run_tiny):
    model, dataset, results = run_tiny("bic", buffer_size=30, valset_split=0.4)
    # 12 rows: 12 / 2 = 6 images of each class in the first task, 3 in the second, 2 in the third.
    assert results.train_images == [36 - 12, 36 - 6, 36 - 4]
    assert model.epoch_sizes([36, 36, 36]) == results.train_images
    assert model.epoch_sizes([36, 4, 36]) == [36 - 12, 2, 36 - 4]  # at most half of a class
    assert model.validation.labels.bincount().tolist() == [2] * 6
    assert model.buffer.labels.bincount().tolist() == [3] * 6
    held_out = {tuple(image) for image in model.validation.examples.flatten(1).tolist()}
    stored = {tuple(image) for image in model.buffer.examples.flatten(1).tolist()}
    trained = {tuple(i) for _, _, x in dataset.train_loader for i in x.flatten(1).tolist()}
    assert not held_out & (stored | trained)


def test_loss_weighs_distillation_by_the_share_of_old_classes(run_tiny):
    model, dataset, _ = run_tiny("bic", buffer_size=14, minibatch_size=8)
    batch = Batch(*next(iter(dataset.train_loader)))
    model.net.eval()
    with torch.no_grad():
        inputs = torch.cat(
            (batch.inputs, apply_transform(model.buffer.examples, model.normalization_transform))
        )
        labels = torch.cat((batch.labels, model.buffer.labels))
        logits = model.alpha * model.net(inputs) + model.beta
        teacher = model.alpha * model.teacher(inputs) + model.beta
        expected = (4 / 6) * distillation_loss(logits[:, :4], teacher[:, :4], TEMPERATURE)
        expected += (2 / 6) * F.cross_entropy(logits, labels)
        torch.testing.assert_close(model.training_loss(batch), expected)
        torch.testing.assert_close(model(inputs), logits)
    assert torch.equal(model.alpha[:2], torch.ones(2))  # the first task has no bias
    assert model.alpha[2] != 1
    assert model.alpha[2] == model.alpha[3] != model.alpha[4]


def test_a_buffer_without_room_for_every_class_is_refused(tiny):
    with pytest.raises(ConfigError, match="--buffer_size must be at least 7, got 6"):
        load_runner("bic", "seq-tiny", {"buffer_size": 6})
