"""Supervised contrastive replay."""

import math

import pytest
import torch
from torch.nn import functional as F

from mammoth_compiled.models.common.contrast import contrastive_loss, strong_view


def test_loss_of_two_classes_on_opposite_sides():
    # Two images of each class at (1, 0) and (-1, 0): one positive and two negatives for each.
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    loss = contrastive_loss(features, torch.tensor([0, 0, 1, 1]), temperature=0.5)
    expected = -math.log(math.exp(2) / (math.exp(2) + 2 * math.exp(-2)))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_loss_is_the_mean_over_positives():
    features = F.normalize(torch.randn(7, 4))
    labels = torch.tensor([0, 1, 0, 1, 1, 0, 0])
    total = 0.0
    for i in range(7):
        others = [a for a in range(7) if a != i]
        positives = [p for p in others if labels[p] == labels[i]]
        log_sum = torch.logsumexp(features[others] @ features[i] / 0.1, 0)
        terms = [log_sum - features[p] @ features[i] / 0.1 for p in positives]
        total += sum(terms) / len(terms) / 7
    torch.testing.assert_close(contrastive_loss(features, labels, 0.1), total)


@pytest.mark.parametrize("channels", [1, 3])
def test_strong_views_are_images_of_the_same_size(channels):
    images = torch.rand(64, channels, 8, 8)
    views = strong_view(images)
    assert views.shape == images.shape
    assert views.min() >= -1e-6
    assert views.max() <= 1 + 1e-6
    assert not torch.equal(views, images)
    gray = (views == views[:, :1]).flatten(1).all(1).float().mean()
    assert gray == 1 if channels == 1 else 0.05 < gray < 0.4


def test_classes_are_predicted_by_the_nearest_mean_over_the_buffer(run_tiny):
    model, dataset, _ = run_tiny("scr", buffer_size=20)
    images, _ = next(iter(dataset.test_loaders[0]))[:2]
    model.net.eval()
    with torch.no_grad():
        stored, labels = model.buffer.get_all_data(model.normalization_transform)
        features = F.normalize(model.net(stored, returnt="features"))
        means = torch.stack([F.normalize(features[labels == k].mean(0), dim=0) for k in range(6)])
        own = F.normalize(model.net(images, returnt="features"))
        torch.testing.assert_close(model(images), -torch.cdist(own, means).square())


def test_projection_learns_and_the_classifier_does_not(run_tiny):
    model, _, _ = run_tiny("scr", buffer_size=20)
    assert model.net.classifier.weight.grad is None
    assert all(p.grad is not None for p in model.projection.parameters())
    assert len(model.opt.param_groups[0]["params"]) == len(list(model.parameters()))


def test_logits_are_the_scores_while_the_buffer_is_empty(run_tiny):
    args = {"buffer_size": 20, "buffer_policy": "herding", "eval_every": 2}
    _, _, results = run_tiny("scr", **args)
    assert math.isfinite(results.curve[0]["loss"])
