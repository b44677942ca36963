"""InfLoRA: directions outside the space of earlier inputs, and the growth of that space."""

import pytest
import torch

from mammoth_compiled import load_runner, train
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.models.networks.low_rank import LowRankQKV, grown_space
from mammoth_compiled.registry import models

ARGS = {**models["inflora"].target.EXAMPLE_ARGS, "seed": 0, "compile": "off"}


def random_layer():
    layer = LowRankQKV(torch.nn.Linear(6, 18), rank=2)
    with torch.no_grad():
        layer.a.normal_()
        layer.b.normal_()
    return layer


def test_merged_updates_compute_the_same():
    layer, x = random_layer(), torch.randn(2, 5, 6)
    before = layer(x)
    key = layer.linear.weight[6:12] + layer.b[0] @ layer.a
    torch.testing.assert_close(before[..., 6:12], x @ key.T + layer.linear.bias[6:12])
    torch.testing.assert_close(before[..., :6], layer.linear(x)[..., :6])  # queries stay
    with torch.no_grad():
        layer.merge()
    assert not layer.b.any()
    torch.testing.assert_close(layer(x), before)


def test_space_grows_by_the_strongest_directions_until_it_holds_the_share():
    basis = torch.linalg.qr(torch.randn(5, 5).double()).Q
    gram = basis @ torch.diag(torch.tensor([4.0, 3, 2, 1, 0]).double()) @ basis.T
    # Shares of the squares: 16/30, 25/30, 29/30, 1.
    for threshold, rank in ((0.5, 1), (0.6, 2), (0.9, 3), (0.99, 4)):
        space = grown_space(torch.zeros(5, 5).double(), gram, threshold)
        torch.testing.assert_close(space, basis[:, :rank] @ basis[:, :rank].T)
    first = basis[:, :1] @ basis[:, :1].T
    assert torch.equal(grown_space(first, gram, 0.5), first)  # it holds enough already
    torch.testing.assert_close(grown_space(first, gram, 0.6), basis[:, :2] @ basis[:, :2].T)


def test_updates_avoid_the_space_of_earlier_tasks(tiny):
    model, dataset = load_runner("inflora", "seq-tiny", {**ARGS, "threshold": 0.9})
    spaces, directions, weights = [], [], []

    def after_task(_):
        spaces.append(model.spaces.clone())
        directions.append(torch.stack([layer.a.clone() for layer in model.net.updates]))
        weights.append(torch.stack([layer.linear.weight + 0 for layer in model.net.updates]))

    train(model, dataset, after_task=after_task)
    for task in (1, 2):
        overlap = directions[task] @ spaces[task - 1]
        assert overlap.abs().max() < 1e-4
        assert (directions[task].norm(dim=2) - 3**-0.5).abs().max() < 1e-5
        ranks = [s.diagonal(dim1=1, dim2=2).sum(1) for s in spaces[task - 1 : task + 1]]
        assert (ranks[1] >= ranks[0]).all()
        change = weights[task] - weights[task - 1]
        assert not change[:, :24].any()  # queries
        assert (change[:, 24:] @ spaces[task - 1]).abs().max() < 1e-4
        assert change[:, 24:].abs().max() > 1e-3


def test_only_updates_and_head_are_trained(tiny):
    model, _ = load_runner("inflora", "seq-tiny", ARGS)
    names = [name for name, p in model.net.named_parameters() if p.requires_grad]
    assert sorted(names) == [
        "head.bias",
        "head.weight",
        "vit.blocks.0.attn.qkv.b",
        "vit.blocks.1.attn.qkv.b",
    ]


def test_rank_must_fit(tiny):
    with pytest.raises(ConfigError, match="--rank 25 exceeds the width of a token, 24"):
        load_runner("inflora", "seq-tiny", {**ARGS, "rank": 25})
