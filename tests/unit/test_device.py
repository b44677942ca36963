"""Devices, folders and random state."""

import random

import numpy as np
import pytest
import torch

from mammoth_compiled import base_path, get_device
from mammoth_compiled.device import (
    computes_bf16,
    keep_freed_memory,
    random_state,
    set_random_state,
    set_seed,
)
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


@pytest.mark.parametrize("flag", [None, "avx512_bf16", "amx_bf16"])
def test_bfloat16_in_hardware(monkeypatch, flag):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, flag: True})
    assert computes_bf16(torch.device("cpu")) == (flag is not None)


PAGED_IN = """
import resource, sys, torch
from mammoth_compiled.device import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def step():
    blocks = [torch.empty(20 * 2**20, dtype=torch.uint8).fill_(1) for _ in range(3)]
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
before = faults()
step()
print(faults() - before)
"""


def test_freed_memory_is_kept(run_python):
    if not keep_freed_memory():
        pytest.skip("the C library has no mallopt")

    # By itself glibc gives memory back or not as its heap happens to lie; so it always does.
    mapped = {"GLIBC_TUNABLES": f"glibc.malloc.mmap_threshold={2**20}"}

    def paged_in(what):
        done = run_python("-c", PAGED_IN, what, **mapped)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    # 60 MiB in pages of 4 KiB, or in huge ones of 2 MiB.
    assert paged_in("give back") >= 30
    assert paged_in("keep") < 30


def test_another_c_library(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    assert not keep_freed_memory()
