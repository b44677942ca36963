"""Which host state of a network counts as changed by a forward pass."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from mammoth_compiled.engine.host_state import changed_host_state

TOTAL = 0
GENERATOR = np.random.default_rng(0)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.drop = nn.Dropout(0.5)
        self.norm = nn.BatchNorm1d(2)
        self.step, self.history, self.rng = 0, [], np.random.RandomState(0)

    def forward(self, x, change):
        change(self)
        return self.norm(self.drop(self.layer(x)))


class GlobalsNet(Net):
    def forward(self, x, change):
        global TOTAL
        TOTAL += change
        if change:
            GENERATOR.random()
        return self.layer(x)


def attribute(net):
    net.step += 1


def container(net):
    net.history.append(1)


def generator(net):
    net.rng.rand()


def submodule(net):
    net.layer.calls = 1


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda net: None, []),
        (lambda net: torch.rand(1), []),
        (lambda net: random.shuffle([1, 2, 3]), ["random"]),
        (lambda net: random.sample(range(9), 2), ["random"]),
        (lambda net: np.random.rand(), ["numpy.random"]),
        (attribute, ["step"]),
        (container, ["history"]),
        (generator, ["rng"]),
        (submodule, ["calls"]),
    ],
)
def test_changes_are_named(change, names):
    net = Net()
    result, changed = changed_host_state(net, lambda: net(torch.rand(4, 2), change))
    assert changed == names
    assert result.shape == (4, 2)


@pytest.mark.parametrize(("change", "names"), [(0, []), (1, ["GENERATOR", "TOTAL"])])
def test_globals_that_the_code_names(change, names):
    net = GlobalsNet()
    assert changed_host_state(net, lambda: net(torch.rand(4, 2), change))[1] == names


def test_errors_propagate():
    net = Net()
    with pytest.raises(RuntimeError):
        changed_host_state(net, lambda: net(torch.rand(4, 3), lambda _: None))
