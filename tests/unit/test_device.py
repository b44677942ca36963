"""Devices, the base folder, random state and freed memory."""

import random

import numpy as np
import pytest
import torch

from mammoth_compiled import base_path, get_device, load_runner
from mammoth_compiled.device import (
    computes_bf16,
    default_device,
    keep_freed_memory,
    random_state,
    set_random_state,
    set_seed,
)
from mammoth_compiled.errors import ConfigError


def draw():
    return random.random(), np.random.rand(), np.random.standard_normal(), torch.rand(3).tolist()


def test_default_device():
    assert default_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert get_device() == torch.device("cpu")  # as tests that are not for a GPU expect


def test_everything_is_on_the_default_device(tiny, monkeypatch):
    monkeypatch.setattr("mammoth_compiled.device.default_device", lambda: torch.device("meta"))
    model, _ = load_runner("er", "seq-tiny", {"buffer_size": 8, "lr": 0.1})
    trained = [p for group in model.opt.param_groups for p in group["params"]]
    devices = {tensor.device.type for tensor in [*model.parameters(), *model.buffers(), *trained]}
    assert devices | {model.device.type, model.buffer.device.type} == {"meta"}


def test_device_by_name():
    assert get_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "", "meta"])
def test_unavailable_device_is_rejected(name):
    with pytest.raises(ConfigError, match=f"device '{name}' is not available; valid: cpu"):
        get_device(name)


def test_base_path_from_the_environment(monkeypatch):
    monkeypatch.setenv("MAMMOTH_BASE_PATH", "/some/where")
    assert base_path() == "/some/where/"


@pytest.mark.parametrize("value", [None, ""])
def test_default_base_path(monkeypatch, value):
    monkeypatch.delenv("MAMMOTH_BASE_PATH")
    if value is not None:
        monkeypatch.setenv("MAMMOTH_BASE_PATH", value)
    assert base_path() == "./data/"


def test_seed_determines_the_numbers():
    set_seed(2**32 + 5)
    first = draw()
    set_seed(2**32 + 5)
    assert draw() == first
    set_seed(6)
    assert draw() != first


def test_random_state_round_trip():
    draw()
    random.gauss(0, 1)  # caches a number in the generator
    np.random.standard_normal()
    state = random_state()
    first = (random.gauss(0, 1), *draw())
    set_random_state(state)
    assert (random.gauss(0, 1), *draw()) == first


def test_random_state_can_be_loaded_with_weights_only(tmp_path):
    state = random_state()
    first = draw()
    torch.save(state, tmp_path / "state.pt")
    set_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draw() == first


@pytest.mark.parametrize("flag", [None, "avx512_bf16", "amx_bf16"])
def test_bfloat16_support_of_a_cpu(monkeypatch, flag):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, flag: True})
    assert computes_bf16(torch.device("cpu")) == (flag is not None)


PAGE_FAULTS = """
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

    # Whether glibc returns memory by default depends on the layout of its heap: force it.
    returning = {"GLIBC_TUNABLES": f"glibc.malloc.mmap_threshold={2**20}"}

    def page_faults(what):
        done = run_python("-c", PAGE_FAULTS, what, **returning)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    # 60 MiB in pages of 4 KiB, or in huge pages of 2 MiB.
    assert page_faults("return") >= 30
    assert page_faults("keep") < 30


def test_other_c_libraries_keep_their_settings(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    assert not keep_freed_memory()
