"""Devices, folders and random state."""

import random

import numpy as np
import pytest
import torch

from mammoth_compiled import base_path, get_device
from mammoth_compiled.device import random_state, set_random_state, set_seed
from mammoth_compiled.errors import ConfigError


def draw():
    return random.random(), np.random.rand(), np.random.standard_normal(), torch.rand(3).tolist()


def test_device_without_a_name():
    assert get_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_device_by_name():
    assert get_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "", "meta"])
def test_device_that_is_not_there(name):
    with pytest.raises(ConfigError, match=f"device '{name}' is not there; available: cpu"):
        get_device(name)


def test_base_path_is_the_environments(monkeypatch):
    monkeypatch.setenv("MAMMOTH_BASE_PATH", "/some/where")
    assert base_path() == "/some/where/"


@pytest.mark.parametrize("value", [None, ""])
def test_base_path_without_environment(monkeypatch, value):
    monkeypatch.delenv("MAMMOTH_BASE_PATH")
    if value is not None:
        monkeypatch.setenv("MAMMOTH_BASE_PATH", value)
    assert base_path() == "./data/"


def test_a_seed_gives_the_same_numbers():
    set_seed(2**32 + 5)
    first = draw()
    set_seed(2**32 + 5)
    assert draw() == first
    set_seed(6)
    assert draw() != first


def test_random_state_round_trip():
    draw()
    random.gauss(0, 1)  # leaves a number in the generator's pocket
    np.random.standard_normal()
    state = random_state()
    first = (random.gauss(0, 1), *draw())
    set_random_state(state)
    assert (random.gauss(0, 1), *draw()) == first


def test_random_state_can_be_loaded_without_running_code(tmp_path):
    state = random_state()
    first = draw()
    torch.save(state, tmp_path / "state.pt")
    set_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draw() == first
