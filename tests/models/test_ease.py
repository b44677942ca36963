"""EASE: adapters of all tasks side by side, and prototypes in the features of each."""

import pytest
import torch
from torch.nn import functional as F

from mammoth_compiled import load_runner, train
from mammoth_compiled.registry import models

ARGS = {**models["ease"].target.EXAMPLE_ARGS, "seed": 0, "compile": "off"}


@pytest.fixture
def run(tiny):
    model, dataset = load_runner("ease", "seq-tiny", {**ARGS, "other_weight": 0.5, "n_epochs": 2})
    prototypes = []
    train(model, dataset, after_task=lambda _: prototypes.append(model.prototypes.clone()))
    return model, prototypes


def with_adapters(net, task, images):
    """Features with the adapters of one task, applied one by one."""

    def adapter(layer):
        down, up = net.all_down[task, layer], net.all_up[task, layer]
        return lambda x: 0.1 * (F.relu(x @ down[:-1] + down[-1]) @ up[:-1] + up[-1])

    adapters = [adapter(layer) for layer in range(2)]
    return net.vit.encode(net.vit.embed(images), adapters=adapters)[:, 0]


def test_features_of_all_tasks(run):
    net, images = run[0].net.eval(), torch.randn(3, 3, 8, 8)
    expected = torch.cat([with_adapters(net, task, images) for task in range(3)], 1)
    torch.testing.assert_close(net(images, returnt="features"), expected)
    assert not torch.allclose(expected[:, :24], expected[:, 24:48], atol=1e-3)


def test_prototypes_of_new_and_old_classes(tiny, run):
    model, prototypes = run
    images, labels = (torch.from_numpy(part) for part in tiny.images(18, seed=1))
    inputs = (images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    with torch.no_grad():
        for task in range(3):  # classes 4 and 5 are new in the last task
            features = with_adapters(model.net, task, inputs)
            expected = torch.stack([features[labels == k].mean(0) for k in (4, 5)])
            torch.testing.assert_close(prototypes[2][4:, task], expected, rtol=1e-4, atol=1e-4)
    own = prototypes[2][3, 1]  # class 3 belongs to task 1
    similarity = F.cosine_similarity(own[None], prototypes[2][4:, 1]).softmax(0)
    expected = similarity[0] * prototypes[2][4, 2] + similarity[1] * prototypes[2][5, 2]
    torch.testing.assert_close(prototypes[2][3, 2], expected)
    assert torch.equal(prototypes[2][:4, :2], prototypes[1][:4, :2])


def test_scores_prefer_the_features_of_the_own_task(run):
    model, _ = run
    assert model.weights(2).tolist() == [
        *[[1, 0.25, 0.25]] * 2,
        *[[0.25, 1, 0.25]] * 2,
        *[[0.25, 0.25, 1]] * 2,
    ]
    images = torch.randn(3, 3, 8, 8)
    scores, features = model.net.eval()(images, returnt="both")
    cosines = F.cosine_similarity(features.view(3, 1, 3, 24), model.prototypes[None], dim=3)
    torch.testing.assert_close(scores, (cosines * model.weights(2)).sum(2))


def test_first_task_has_no_others(tiny):
    model, dataset = load_runner("ease", "seq-tiny", ARGS)
    dataset.meta_get_data_loaders()
    model.begin_task(dataset)
    model.end_task(dataset)
    assert model.weights(0).tolist() == [[1, 0, 0]] * 2 + [[0, 0, 0]] * 4
