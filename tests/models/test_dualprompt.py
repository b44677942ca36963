"""DualPrompt: the prompt of the task in training, of the nearest key in evaluation."""

import pytest
import torch
from torch.nn import functional as F

from mammoth_compiled import load_runner
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.registry import models
from mammoth_compiled.types import Batch

ARGS = {**models["dualprompt"].target.EXAMPLE_ARGS, "seed": 0}


@pytest.fixture
def model(tiny):
    model, dataset = load_runner("dualprompt", "seq-tiny", {**ARGS, "key_weight": 0.5})
    for _ in range(2):
        dataset.meta_get_data_loaders()
        model.begin_task(dataset)
    return model


def test_choice_of_the_task(model):
    net = model.net
    query = torch.randn(20, 24)
    assert net.train().choose(query).tolist() == [1] * 20
    similarity = F.cosine_similarity(query[:, None], net.keys[None, :2], dim=2)
    assert torch.equal(net.eval().choose(query), similarity.argmax(1))  # task 2 is unseen


def test_prompts_are_keys_and_values_of_their_blocks(model):
    net = model.net.train()
    tokens, query = torch.randn(3, 5, 24), torch.randn(3, 24)
    x = net.vit.blocks[0](tokens, tuple(net.general[0][:, None].expand(2, 3, 5, 24)))
    x = net.vit.blocks[1](x, tuple(net.specific[0, :, 1][:, None].expand(2, 3, 5, 24)))
    torch.testing.assert_close(net.prompted(tokens, query), net.vit.norm(x)[:, 0])


def test_a_task_starts_from_the_prompt_before(model):
    net = model.net
    assert torch.equal(net.specific[:, :, 1], net.specific[:, :, 0])
    assert torch.equal(net.keys[1], net.keys[0])
    assert not torch.equal(net.keys[2], net.keys[0])


def test_only_the_current_prompt_gets_gradients(model):
    images, labels = torch.randn(4, 3, 8, 8), torch.tensor([2, 3, 3, 2])
    loss = model.training_loss(Batch(images, labels, images))
    query = model.net.vit(images, returnt="features")
    pull = F.cosine_similarity(query, model.net.keys[1:2]).mean()
    expected = F.cross_entropy(model.net(images)[:, 2:4], labels - 2) - 0.5 * pull
    torch.testing.assert_close(loss, expected)
    loss.backward()
    used = model.net.specific.grad.abs().sum((0, 1, 3, 4)) > 0
    assert used.tolist() == [False, True, False]
    assert (model.net.keys.grad.abs().sum(1) > 0).tolist() == [False, True, False]


def test_blocks_must_exist(tiny):
    with pytest.raises(ConfigError, match="--task_layers: the transformer has blocks 0 to 1, got"):
        load_runner("dualprompt", "seq-tiny", {**ARGS, "task_layers": [1, 2]})
