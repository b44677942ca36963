"""SLCA: two learning rates, Gaussians of classes, and the alignment of the head."""

import pytest
import torch
from torch.nn import functional as F

from mammoth_compiled import load_runner, train


@pytest.fixture
def model(tiny):
    return load_runner("slca", "seq-tiny", {"seed": 0, "lr": 0.5})[0]


def test_backbone_learns_slowly(model):
    body, head = model.opt.param_groups
    assert (body["lr"], head["lr"]) == (0.005, 0.5)
    assert len(head["params"]) == 2
    assert len(body["params"]) == len(list(model.net.body.parameters()))


def test_gaussians_are_those_of_the_features(tiny, run_tiny):
    # Nothing moves, so that the features after the run are those of every task.
    model, _, _ = run_tiny("slca", lr=1e-12)
    images, labels = (torch.from_numpy(part) for part in tiny.images(18, seed=1))
    model.net.body.conv.eval()
    for k in (0, 5):
        covariance = model.gaussians.factors[k] @ model.gaussians.factors[k].T
        assert torch.allclose(covariance, covariance.T)
        assert (covariance.diagonal() >= 1e-4).all()
    with torch.no_grad():
        inputs = (images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
        features = model.net.eval()(inputs, returnt="features")[labels == 5]
    torch.testing.assert_close(model.gaussians.means[5], features.mean(0), rtol=1e-3, atol=1e-3)
    expected = features.T.cov() + 1e-4 * torch.eye(64)
    found = model.gaussians.factors[5] @ model.gaussians.factors[5].T
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)


def test_samples_of_older_classes_shrink(model):
    model.gaussians.means[0] = 100.0
    model.gaussians.factors[0] = torch.eye(64)
    model.task_of_class[0] = 1
    drawn = model.samples(0, task=3)
    assert drawn.shape == (256, 64)
    assert abs(drawn.mean().item() - 95) < 0.1  # 100 * (0.9 + 0.1 * 2 / 4)
    assert abs(drawn.std(0).mean().item() - 1) < 0.1


def test_alignment_divides_logits_by_their_mean_norm_over_tasks(model):
    model.task_of_class.copy_(torch.tensor([0, 0, 1, 1, 2, 2]))
    model.gaussians.factors[:4] = torch.eye(64)
    logits = torch.tensor([[3.0, 4.0, 5.0, 12.0, 99.0, 99.0]])
    expected = F.cross_entropy(logits[:, :4] / ((5 + 13) / 2) / 0.1, torch.tensor([3]))
    found = model.alignment_loss(logits, torch.tensor([3]), task=1)
    torch.testing.assert_close(found, expected)


def test_training_continues_with_the_head_before_its_alignment(tiny):
    model, dataset = load_runner("slca", "seq-tiny", {"seed": 0, "compile": "off", "lr": 0.05})
    heads = []

    def after_task(_):
        heads.append((model.net.head.weight.detach().clone(), model.unaligned.weight.clone()))

    train(model, dataset, after_task=after_task)
    assert torch.equal(*heads[0])  # one task needs no alignment
    assert not torch.equal(*heads[1])
    model.begin_task(dataset)
    assert torch.equal(model.net.head.weight, heads[2][1])
