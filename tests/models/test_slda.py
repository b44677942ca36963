"""Streaming linear discriminant analysis."""

import math
from itertools import pairwise

import pytest
import torch

from mammoth_compiled import load_runner, train

ONE = torch.ones((), dtype=torch.float64)


@pytest.fixture
def model(tiny):
    return load_runner("slda", "seq-tiny", {"seed": 0, "shrinkage": 0.1})[0]


def test_statistics_do_not_depend_on_the_batches(model):
    features, labels = torch.randn(50, 64).double(), torch.randint(5, (50,))
    for part, classes in zip(features.split(7), labels.split(7), strict=True):
        model.discriminant.update(part, classes, ONE)
        model.discriminant.update(part, classes, 0 * ONE)  # changes nothing
    means = torch.stack([features[labels == k].mean(0) for k in range(5)])
    centered = features - means[labels]
    torch.testing.assert_close(model.discriminant.means[:5], means)
    torch.testing.assert_close(model.discriminant.scatter, centered.T @ centered)
    assert model.discriminant.counts.tolist() == [*labels.bincount().tolist(), 0]


def test_scores_are_those_of_the_discriminant(model):
    features, labels = torch.randn(50, 64).double(), torch.randint(5, (50,))
    model.discriminant.update(features, labels, ONE)
    weights, biases = model.classifier()
    precision = torch.linalg.inv(0.9 * model.discriminant.scatter / 50 + 0.1 * torch.eye(64))
    for k in range(5):
        mean = model.discriminant.means[k]
        torch.testing.assert_close(weights[:, k], precision @ mean)
        torch.testing.assert_close(biases[k], -0.5 * mean @ precision @ mean)
    assert biases[5] == -torch.inf  # no image of this class yet


@pytest.mark.parametrize("base_training", [0, 1])
def test_backbone_is_frozen_after_the_base_task(tiny, base_training):
    args = {"seed": 0, "batch_size": 8, "n_epochs": 2, "compile": "off"}
    model, dataset = load_runner("slda", "seq-tiny", {**args, "base_training": base_training})
    weights = [{k: v.clone() for k, v in model.net.state_dict().items()}]
    counts = []

    def after_task(_):
        weights.append({k: v.clone() for k, v in model.net.state_dict().items()})
        counts.append(model.discriminant.counts.tolist())

    train(model, dataset, after_task=after_task)
    same = [all(torch.equal(a[k], b[k]) for k in a) for a, b in pairwise(weights)]
    assert same == [not base_training, True, True]
    # Each image counts once, whatever the number of epochs.
    assert counts == [[18.0] * (2 * task) + [0.0] * (6 - 2 * task) for task in (1, 2, 3)]


def test_logits_are_the_scores_while_the_backbone_trains(run_tiny):
    _, _, results = run_tiny("slda", eval_every=2)
    assert len(results.curve) >= 4
    assert all(math.isfinite(point["loss"]) for point in results.curve)
