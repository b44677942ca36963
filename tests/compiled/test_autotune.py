"""Autotuning on a GPU: the shipped table, then the cache of this machine, then a measurement."""

import json
import math
from types import SimpleNamespace

import pytest
import torch

from mammoth_compiled.compiler import autotune
from mammoth_compiled.kernels.runtime.cases import TuningCase, Work
from mammoth_compiled.kernels.runtime.implementations import Implementation

CUDA = torch.device("cuda", 0)


class Case(TuningCase):
    """A case with a given key and steps."""

    op = "conv_relu_pool"
    dtype = torch.bfloat16

    def __init__(self, key, steps=None):
        self.key, self.steps = key, steps

    def __str__(self):
        return self.key

    def make_inputs(self, device):
        return (torch.ones(1, device=device),)

    def contenders(self, inputs):
        return {name: lambda _, step=step: step() for name, step in self.steps.items()}

    def work(self):
        return Work(0, 0)


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A fake GPU: `shipped` is its table, `times` are measurements, `measured` logs them."""

    class Gpu:
        def __init__(self):
            self.shipped, self.times, self.measured = {}, {"triton": 1.0, "relu_pool": 2.0}, []
            self.path = tmp_path / "cache" / "fastest.json"

        def measure(self, case, device, names):
            assert device == CUDA
            self.measured.append(str(case))
            return {name: self.times[name] for name in names}

        def fastest(self, key="bfloat16 batch=32", names=("triton", "relu_pool")):
            return autotune.fastest(Case(key), CUDA, names)

    gpu = Gpu()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(
        autotune, "tuned_table", lambda chip: gpu.shipped if chip == "sm_90" else {}
    )
    monkeypatch.setattr(autotune, "_measure", gpu.measure)
    monkeypatch.setattr(autotune, "_cache_path", lambda device: gpu.path)
    autotune._warn_once.cache_clear()
    return gpu


def test_shipped_table_decides_without_measuring(gpu):
    gpu.shipped = {"winners": {"conv_relu_pool": {"bfloat16 batch=32": "relu_pool"}}}
    assert gpu.fastest() == "relu_pool"
    assert gpu.fastest("bfloat16 batch=64") == "triton"
    assert gpu.measured == ["bfloat16 batch=64"]


def test_case_is_measured_once_for_all_runs(gpu):
    assert gpu.fastest() == "triton"
    gpu.times = {"triton": 3.0, "relu_pool": 2.0}
    assert gpu.fastest() == "triton"
    assert gpu.fastest("float16 batch=32") == "relu_pool"
    assert gpu.measured == ["bfloat16 batch=32", "float16 batch=32"]
    assert len(json.loads(gpu.path.read_text())) == 2


def test_winner_that_is_not_usable_is_ignored(gpu):
    # A table or a cache may come from another version, or from other settings of torch.
    gpu.shipped = {"winners": {"conv_relu_pool": {"bfloat16 batch=32": "removed"}}}
    gpu.path.parent.mkdir()
    gpu.path.write_text(json.dumps({"conv_relu_pool bfloat16 batch=32": "triton"}))
    assert gpu.fastest(names=["relu_pool"]) == "relu_pool"


@pytest.mark.parametrize("content", ["{", "[1]", ""])
def test_damaged_cache_is_measured_again(gpu, content):
    gpu.path.parent.mkdir()
    gpu.path.write_text(content)
    assert gpu.fastest() == "triton"
    assert json.loads(gpu.path.read_text()) == {"conv_relu_pool bfloat16 batch=32": "triton"}


def test_unwritable_cache_warns_once(gpu, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="autotuning results are not kept for the next run"):
        assert gpu.fastest() == "triton"
    assert gpu.fastest() == "triton"


def test_implementation_that_exceeds_the_gpu_is_never_fastest(monkeypatch):
    pytest.importorskip("triton")
    from triton.runtime.errors import OutOfResources

    def time_replays(functions):
        if functions[0] == "triton":
            raise OutOfResources(200_000, 100_000, "shared memory")
        if functions[0] == "torch":
            raise torch.OutOfMemoryError
        return [2.0]

    monkeypatch.setattr(autotune, "time_replays", time_replays)
    assert autotune._median_time("triton") == autotune._median_time("torch") == math.inf
    assert autotune._median_time("relu_pool") == 2.0


def test_select_measures_only_where_a_gpu_has_a_choice(monkeypatch):
    first, second = (Implementation(name, name, print) for name in ("first", "second"))
    monkeypatch.setattr(autotune, "fastest", lambda case, device, names: names[1])

    def no_case():
        pytest.fail("nothing to measure")

    assert autotune.select([first, second], torch.device("cpu"), no_case) is first
    assert autotune.select([second], CUDA, no_case) is second
    assert autotune.select([first, second], CUDA, lambda: SimpleNamespace()) is second


@pytest.mark.gpu
def test_measurement_picks_the_faster_and_keeps_the_random_state(monkeypatch, tmp_path):
    monkeypatch.setenv("MAMMOTH_CACHE_DIR", str(tmp_path))
    x = torch.randn(2048, 2048, device="cuda")
    state = torch.cuda.get_rng_state()
    case = Case("square", {"slow": lambda: (x @ x) @ x, "fast": lambda: x + 1})
    assert autotune.fastest(case, x.device, ["slow", "fast"]) == "fast"
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert len(list(tmp_path.glob("fastest-*.json"))) == 1
