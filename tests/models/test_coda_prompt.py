"""CODA-Prompt: weighted components, of which each task trains its own."""

import pytest
import torch
from torch.nn import functional as F

from mammoth_compiled import load_runner
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.registry import models
from mammoth_compiled.types import Batch

ARGS = {**models["coda-prompt"].target.EXAMPLE_ARGS, "seed": 0, "num_components": 6}


@pytest.fixture
def model(tiny):
    model, dataset = load_runner("coda-prompt", "seq-tiny", {**ARGS, "ortho_weight": 2.0})
    for _ in range(2):
        dataset.meta_get_data_loaders()
        model.begin_task(dataset)
    return model


def test_prompt_is_the_weighted_sum_of_the_components_so_far(model):
    net = model.net
    tokens, query = torch.randn(3, 5, 24), torch.randn(3, 24)
    x = tokens
    for layer in (0, 1):
        prompts = torch.zeros(3, 8 * 24)
        for m in range(4):  # two tasks have two components each
            keys = net.keys[layer, m].expand(3, 24)
            weight = F.cosine_similarity(query * net.attention[layer, m], keys)
            prompts = prompts + weight[:, None] * net.components[layer, m]
        x = net.vit.blocks[layer](x, prompts.reshape(3, 8, 24).split(4, dim=1))
    torch.testing.assert_close(net.prompted(tokens, query), net.vit.norm(x)[:, 0])


def test_components_of_a_task_are_orthogonal_to_the_earlier_ones(model):
    for part in model.net.parts():
        products = part @ part.mT
        expected = torch.diag(torch.tensor([1.0, 1, 1, 1, 0, 0])).expand_as(products)
        torch.testing.assert_close(products, expected, atol=1e-5, rtol=0)
    assert model.net.orthogonality() < 1e-8
    with torch.no_grad():
        model.net.keys[0, 2] *= 2  # its squared norm is 4 instead of 1: one of 4 x 4 entries
    torch.testing.assert_close(model.net.orthogonality().item(), 9 / 16, rtol=1e-4, atol=0)


def test_only_the_components_of_the_task_get_gradients(model):
    images, labels = torch.randn(4, 3, 8, 8), torch.tensor([2, 3, 3, 2])
    loss = model.training_loss(Batch(images, labels, images))
    expected = F.cross_entropy(model.net(images)[:, 2:4], labels - 2)
    torch.testing.assert_close(loss, expected)  # orthogonal components have no penalty
    loss.backward()
    for parameter in (model.net.components, model.net.keys, model.net.attention):
        used = parameter.grad.abs().sum((0, 2)) > 0
        assert used.tolist() == [False, False, True, True, False, False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_components": 25}, "at most the width of a token, 24"),
        ({"num_components": 2}, "at least the number of tasks, 3"),
        ({"prompt_length": 3}, "--prompt_length 3: must be even"),
    ],
)
def test_bad_arguments(tiny, arguments, message):
    with pytest.raises(ConfigError, match=message):
        load_runner("coda-prompt", "seq-tiny", {**ARGS, **arguments})
