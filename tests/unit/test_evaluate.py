"""Accuracies and loss against hand-computed values."""

import math

import pytest
import torch
from torch.nn import functional as F

from mammoth_compiled import ContinualModel, evaluate, load_runner, register_model


@pytest.fixture
def oracle(tiny):
    """A model that returns given scores for each image; two tasks seen, ten test images each."""

    @register_model("oracle")
    class Oracle(ContinualModel):
        def forward(self, x):
            assert not self.net.training
            assert not torch.is_grad_enabled()
            return self.scores[[self.number[image] for image in map(key, x)]]

        def observe(self, *args, epoch=None):
            return 0.0

    def key(image):
        return tuple(image.flatten().tolist())

    model, dataset = load_runner("oracle", "seq-tiny")
    for _ in range(2):
        dataset.meta_get_data_loaders()
    images, labels = (
        torch.cat(parts)
        for parts in list(zip(*[b for t in dataset.test_loaders for b in t], strict=True))[:2]
    )
    model.number = {key(image): i for i, image in enumerate(images)}
    assert len(model.number) == len(labels) == 20
    return model, dataset, labels


def test_class_il_and_task_il(oracle):
    model, dataset, labels = oracle
    scores = F.one_hot(labels, 6).float()
    # Task 1: three images score highest in a class of task 2, which only class-IL counts as wrong.
    scores[:3, 3] = 2.0
    # Task 2: two score highest in the other class of their own task, wrong in both settings.
    scores[10:12] = F.one_hot(5 - labels[10:12], 6).float()
    # One scores highest in a class not seen yet, which no setting considers.
    scores[15, 5] = 9.0
    model.scores = scores
    result = evaluate(model, dataset)
    assert result.class_il == [0.7, 0.8]
    assert result.task_il == [1.0, 0.8]
    assert result.loss == pytest.approx(F.cross_entropy(scores, labels).item())


def test_minus_infinity_marks_unseen_classes(oracle):
    # Scores need not be logits: nearest class means return minus squared distances.
    model, dataset, labels = oracle
    distances = torch.rand(20, 6) + 1 - F.one_hot(labels, 6)
    model.scores = -distances
    model.scores[:, 4:] = -torch.inf
    result = evaluate(model, dataset)
    assert (result.class_il, result.task_il) == ([1.0, 1.0], [1.0, 1.0])
    assert result.loss == pytest.approx(F.cross_entropy(-distances[:, :4], labels).item())
    # The loss is that of the images whose class has a score; accuracies count all.
    model.scores[:3].scatter_(1, labels[:3, None], -torch.inf)
    result = evaluate(model, dataset)
    expected = F.cross_entropy(-distances[3:, :4], labels[3:])
    assert result.loss == pytest.approx(expected.item())
    assert result.class_il == [0.7, 1.0]
    model.scores.scatter_(1, labels[:, None], -torch.inf)
    assert evaluate(model, dataset).loss == float("inf")
    model.scores[:] = torch.nan
    assert math.isnan(evaluate(model, dataset).loss)


def test_loss_is_the_mean_over_images_not_over_tasks(oracle):
    model, dataset, labels = oracle
    split = dataset.test_loaders[1].dataset
    split.data, split.targets = split.data[:3], split.targets[:3]
    model.scores = torch.randn(20, 6)
    result = evaluate(model, dataset)
    expected = F.cross_entropy(model.scores[:13], labels[:13]).item()
    assert result.loss == pytest.approx(expected)


def test_training_mode_is_restored(oracle):
    model, dataset, _ = oracle
    model.scores = torch.randn(20, 6)
    for training in (True, False):
        model.net.train(training)
        evaluate(model, dataset)
        assert model.net.training is training


def test_training_mode_is_restored_after_an_error(oracle):
    model, dataset, _ = oracle
    model.scores = torch.zeros(1, 6)
    model.net.train()
    with pytest.raises(IndexError):
        evaluate(model, dataset)
    assert model.net.training


def test_before_the_first_task(oracle):
    model, dataset, _ = oracle
    dataset.reset()
    result = evaluate(model, dataset)
    assert (result.class_il, result.task_il) == ([], [])
