"""Which way is taken on a GPU: the shipped table, then what was measured before, then a measure."""

import json
import math

import pytest
import torch

from mammoth_compiled.compiler import dispatch

CUDA = torch.device("cuda", 0)


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A GPU on paper: `shipped` is its table, `times` what its ways take, `measured` a log."""

    class Gpu:
        def __init__(self):
            self.shipped, self.times, self.measured = {}, {"fused": 1.0, "pool": 2.0}, []
            self.path = tmp_path / "cache" / "fastest.json"

        def measure(self, ways, device):
            assert device == CUDA
            self.measured.append(ways())
            return self.times

        def fastest(self, problem="bfloat16 batch=32"):
            return dispatch.fastest("conv_relu_pool", problem, CUDA, lambda: "the ways")

    gpu = Gpu()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(dispatch, "tuned", lambda chip: gpu.shipped if chip == "sm_90" else {})
    monkeypatch.setattr(dispatch, "_measure", gpu.measure)
    monkeypatch.setattr(dispatch, "_path", lambda device: gpu.path)
    dispatch._warn_once.cache_clear()
    return gpu


def test_the_shipped_table_decides_without_measuring(gpu):
    gpu.shipped = {"winners": {"conv_relu_pool": {"bfloat16 batch=32": "unfused"}}}
    assert gpu.fastest() == "unfused"
    assert gpu.fastest("bfloat16 batch=64") == "fused"
    assert len(gpu.measured) == 1


def test_a_problem_is_measured_once_for_all_runs(gpu):
    assert gpu.fastest() == "fused"
    gpu.times = {"fused": 3.0, "pool": 2.0}
    assert gpu.fastest() == "fused"
    assert gpu.fastest("float16 batch=32") == "pool"
    assert gpu.measured == ["the ways"] * 2
    assert len(json.loads(gpu.path.read_text())) == 2


@pytest.mark.parametrize("content", ["{", "[1]", ""])
def test_a_damaged_file_is_measured_again(gpu, content):
    gpu.path.parent.mkdir()
    gpu.path.write_text(content)
    assert gpu.fastest() == "fused"
    assert json.loads(gpu.path.read_text()) == {"conv_relu_pool bfloat16 batch=32": "fused"}


def test_a_folder_that_cannot_be_written_is_named_once(gpu, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="is not kept for the next run"):
        assert gpu.fastest() == "fused"
    assert gpu.fastest() == "fused"


def test_a_way_that_the_gpu_cannot_go_is_not_taken(monkeypatch):
    pytest.importorskip("triton")
    from triton.runtime.errors import OutOfResources

    def replays(functions):
        if functions[0] == "fused":
            raise OutOfResources(200_000, 100_000, "shared memory")
        if functions[0] == "unfused":
            raise torch.OutOfMemoryError
        return [2.0]

    monkeypatch.setattr(dispatch, "replays", replays)
    assert dispatch._median("fused") == dispatch._median("unfused") == math.inf
    assert dispatch._median("pool") == 2.0


@pytest.mark.gpu
def test_a_real_measurement(monkeypatch, tmp_path):
    monkeypatch.setenv("MAMMOTH_CACHE_DIR", str(tmp_path))
    x = torch.randn(2048, 2048, device="cuda")
    state = torch.cuda.get_rng_state()
    ways = {"slow": lambda: (x @ x) @ x, "fast": lambda: x + 1}
    assert dispatch.fastest("test", "square", x.device, lambda: ways) == "fast"
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert len(list(tmp_path.glob("fastest-*.json"))) == 1
