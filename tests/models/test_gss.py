"""Gradient-based sample selection."""

import pytest
import torch
from torch.nn import functional as F

from mammoth_compiled import load_runner
from mammoth_compiled.models.gss import INITIAL_SCORE, gradient_similarity
from mammoth_compiled.types import Batch


@pytest.fixture
def model(tiny):
    args = {"seed": 0, "batch_size": 8, "minibatch_size": 8, "buffer_size": 12, "compile": "off"}
    return load_runner("gss", "seq-tiny", args)[0]


def full(model, scores):
    model.buffer.add_data(
        torch.zeros(12, 3, 8, 8), labels=torch.zeros(12), scores=torch.full((12,), scores)
    )


def rows(scores):
    n = len(scores)
    return {
        "examples": torch.ones(n, 3, 8, 8),
        "labels": torch.arange(1, n + 1),
        "scores": torch.tensor(scores),
    }


def test_similarity_is_the_cosine_of_the_classifiers_gradients(model):
    model.net.eval()
    images, labels = torch.randn(6, 3, 8, 8), torch.tensor([0, 1, 0, 2, 1, 0])
    classifier = list(model.net.classifier.parameters())
    gradients = []
    for image, label in zip(images, labels, strict=True):
        loss = F.cross_entropy(model.net(image[None]), label[None])
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, classifier)]))
    expected = F.cosine_similarity(
        torch.stack(gradients[:2])[:, None], torch.stack(gradients[2:]), dim=2
    )
    logits, features = model.net(images, returnt="both")
    torch.testing.assert_close(gradient_similarity(logits, features, labels, 2), expected)


def test_images_are_stored_while_there_is_room(model, tiny):
    images, labels = torch.rand(8, 3, 8, 8), torch.randint(2, (8,))
    batch = Batch(images, labels, images)
    model.after_step(batch)
    assert torch.equal(model.buffer.examples[:8], images)
    assert model.buffer.scores.tolist() == pytest.approx([INITIAL_SCORE] * 8 + [0.0] * 4)
    with torch.no_grad():
        model.after_step(batch)  # equal to stored images: the largest similarity is 1
    assert torch.equal(model.buffer.examples[8:], images[:4])
    torch.testing.assert_close(model.buffer.scores[8:], torch.full((4,), 2.0))
    assert model.buffer.num_seen_examples == 16
    assert torch.equal(model.buffer.examples[:8], images)  # scores of 2 do not compete


def test_similar_images_replace_nothing(model):
    full(model, 1.5)
    model.compete(rows([1.0, 1.7]))
    assert not model.buffer.labels.any()


def test_unlike_images_replace_redundant_ones(model):
    full(model, 2.0)
    model.buffer.scores[:6] = 0.0  # never drawn
    model.compete(rows([0.0, 0.0]))
    replaced = model.buffer.labels.nonzero()[:, 0]
    assert 1 <= len(replaced) <= 2
    assert (replaced >= 6).all()
    assert (model.buffer.examples[replaced] == 1).all()
    assert not model.buffer.scores[replaced].any()


def test_the_chance_of_a_replacement_is_the_share_of_the_old_score(model):
    wins = 0
    for _ in range(400):
        model.buffer.reset()
        full(model, 1.5)
        model.compete(rows([0.5]))
        wins += int(model.buffer.labels.any())
    assert wins / 400 == pytest.approx(0.75, abs=0.08)
