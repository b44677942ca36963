"""L2P: which prompts an image takes, and what its keys are pulled toward."""

import pytest
import torch
from torch.nn import functional as F

from mammoth_compiled import load_runner
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.registry import models
from mammoth_compiled.types import Batch

ARGS = {**models["l2p"].target.EXAMPLE_ARGS, "seed": 0}


@pytest.fixture
def model(tiny):
    model, dataset = load_runner("l2p", "seq-tiny", {**ARGS, "key_weight": 0.5})
    dataset.meta_get_data_loaders()
    model.begin_task(dataset)
    return model


def test_prompts_of_the_nearest_keys_come_first(model):
    net = model.net
    tokens, query = torch.randn(3, 5, 24), torch.randn(3, 24)
    similarity = F.cosine_similarity(query[:, None], net.keys[None], dim=2)
    features = []
    for i in range(3):
        chosen = similarity[i].argsort(descending=True)[:2]
        prompts = net.prompts[chosen].reshape(1, 10, 24)
        features.append(net.vit.encode(torch.cat((prompts, tokens[i : i + 1]), 1))[0, :10].mean(0))
    torch.testing.assert_close(net.prompted(tokens, query), torch.stack(features))


def test_loss_is_that_of_the_task_minus_the_cosines(model):
    images, labels = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 1, 0])
    logits = model.net(images)
    query = model.net.vit(images, returnt="features")
    similarity = F.cosine_similarity(query[:, None], model.net.keys[None], dim=2)
    pull = similarity.sort(dim=1, descending=True).values[:, :2].sum(1).mean()
    expected = F.cross_entropy(logits[:, :2], labels) - 0.5 * pull
    torch.testing.assert_close(model.training_loss(Batch(images, labels, images)), expected)


def test_transformer_is_frozen(model):
    model.training_loss(Batch(torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 1, 0]), None)).backward()
    assert all(p.grad is None for p in model.net.vit.parameters())
    assert model.net.prompts.grad.abs().sum() > 0
    trained = {id(p) for group in model.opt.param_groups for p in group["params"]}
    net = model.net
    expected = {net.prompts, net.keys, net.head.weight, net.head.bias, model.unused}
    assert trained == {id(p) for p in expected}


def test_pool_must_be_large_enough(tiny):
    with pytest.raises(ConfigError, match="--top_k 9 exceeds --pool_size 4"):
        load_runner("l2p", "seq-tiny", {**ARGS, "top_k": 9})
