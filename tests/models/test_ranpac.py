"""RanPAC: ridge regression on random features, and its choice of the ridge."""

import pytest
import torch
from torch.nn import functional as F

from mammoth_compiled import load_runner, train
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.models.networks.random_projection import RIDGES, ridge_errors
from mammoth_compiled.registry import models

ARGS = models["ranpac"].target.EXAMPLE_ARGS


@pytest.mark.parametrize("rows", [12, 40], ids=["wide", "tall"])
def test_errors_are_those_of_each_ridge(rows):
    x, held_out = torch.randn(rows, 20).double(), torch.randn(8, 20).double()
    y, expected = (F.one_hot(torch.randint(4, (n,)), 4).double() for n in (rows, 8))
    errors = ridge_errors(x, y, held_out, expected)
    for ridge, error in list(zip(RIDGES, errors, strict=True))[4:]:
        weights = torch.linalg.solve(x.T @ x + ridge * torch.eye(20), x.T @ y)
        torch.testing.assert_close(error, F.mse_loss(held_out @ weights, expected))


def test_regression_is_over_the_images_of_all_tasks(tiny, run_tiny):
    model, _, _ = run_tiny("ranpac", **ARGS)
    images, labels = (torch.from_numpy(part) for part in tiny.images(18, seed=1))
    model.net.eval()
    with torch.no_grad():
        features = model.net((images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25, returnt="features")
    hidden = model.net.head.project(features)
    torch.testing.assert_close(model.gram, hidden.T @ hidden, rtol=1e-3, atol=1e-2)
    targets = F.one_hot(labels, 6).float()
    torch.testing.assert_close(model.moments, hidden.T @ targets, rtol=1e-3, atol=1e-3)
    solution = [
        torch.linalg.solve(model.gram.double() + ridge * torch.eye(64), model.moments.double())
        for ridge in RIDGES
    ]
    found = model.net.head.weights.double()
    assert min((found - s).abs().max() for s in solution) < 1e-6


def test_adapters_train_on_the_first_task_only(tiny):
    model, dataset = load_runner("ranpac", "seq-tiny", {**ARGS, "seed": 0, "compile": "off"})
    frozen = {k: v.clone() for k, v in model.net.vit.state_dict().items()}
    states = []
    train(model, dataset, after_task=lambda _: states.append(model.net.adapters[0].up.weight + 0))
    assert states[0].abs().sum() > 0
    assert torch.equal(states[0], states[2])
    assert all(torch.equal(frozen[k], v) for k, v in model.net.vit.state_dict().items())


def test_other_backbones_need_no_adapters(run_tiny, tiny):
    with pytest.raises(ConfigError, match="needs a plain vision transformer"):
        load_runner("ranpac", "seq-tiny", {"projection_dim": 8})
    args = {"projection_dim": 200, "adapter_dim": 0, "seed": 0}
    initial = load_runner("ranpac", "seq-tiny", args)[0].net.body
    model, _, results = run_tiny("ranpac", **args)
    assert_same_state(model.net.body, initial)
    assert min(results.task_il[-1]) > 0.7


def assert_same_state(one, other):
    for key, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key
