"""Precision and determinism: applied to PyTorch during a run, restored afterwards."""

import os

import pytest
import torch

from mammoth_compiled.engine import Observer
from mammoth_compiled.engine.compute import Compute
from mammoth_compiled.engine.numerics import CUBLAS_WORKSPACE, numerics, resolve_precision
from mammoth_compiled.kernels.runtime.device import input_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def settings():
    return {
        "matmul": torch.get_float32_matmul_precision(),
        "conv": torch.backends.cudnn.conv.fp32_precision,
        "rnn": torch.backends.cudnn.rnn.fp32_precision,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "fill": torch.utils.deterministic.fill_uninitialized_memory,
        "benchmark": torch.backends.cudnn.benchmark,
    }


@pytest.mark.parametrize(
    ("precision", "device", "resolved"),
    [
        ("auto", CPU, "highest"),
        ("auto", GPU, "high"),
        ("highest", GPU, "highest"),
        ("high", CPU, "high"),
    ],
)
def test_auto_is_high_on_a_gpu(precision, device, resolved):
    assert resolve_precision(precision, device) == resolved


@pytest.mark.parametrize(("precision", "mode"), [("high", "tf32"), ("highest", "ieee")])
def test_one_precision_for_matmul_cudnn_and_kernels(precision, mode):
    before = settings()
    with numerics(GPU, precision, deterministic=False):
        assert torch.get_float32_matmul_precision() == precision
        assert torch.backends.cudnn.allow_tf32 == (mode == "tf32")
        assert torch.backends.cuda.matmul.allow_tf32 == (mode == "tf32")
        for convolution in (True, False):
            assert input_precision(torch.float32, convolution=convolution) == mode
    assert settings() == before


def test_a_cpu_keeps_its_settings():
    before = settings()
    with numerics(CPU, "high", deterministic=False):
        assert settings() == before


def test_deterministic_algorithms_during_the_block(monkeypatch):
    monkeypatch.delenv(CUBLAS_WORKSPACE[0], raising=False)
    before = settings()
    with numerics(CPU, "auto", deterministic=True):
        assert settings() == {**before, "deterministic": True, "fill": False, "benchmark": False}
        assert os.environ[CUBLAS_WORKSPACE[0]] == CUBLAS_WORKSPACE[1]
    assert settings() == before


@pytest.mark.parametrize("deterministic", [False, True])
def test_cudnn_times_its_algorithms_in_full_steps_on_a_gpu(deterministic):
    """Not in ragged steps, whose shapes are rare, nor where the algorithm must not change."""
    before = settings()
    compute = Compute(GPU)
    seen = []
    with numerics(GPU, "auto", deterministic):
        for num_images in (8, 8, 3):
            with compute.step(num_images):
                seen.append(torch.backends.cudnn.benchmark)
        assert not torch.backends.cudnn.benchmark
    assert seen == ([False] * 3 if deterministic else [True, True, False])
    with Compute(CPU).step(8):
        assert settings() == before


def test_a_run_applies_and_records_them(run_tiny):
    seen = []

    class Looks(Observer):
        def begin_task(self, run):
            seen.append(torch.are_deterministic_algorithms_enabled())

    _, _, results = run_tiny(deterministic=1, device="cpu", observers=[Looks()])
    assert seen == [True] * 3
    assert results.notes["precision"] == "highest"
    assert results.config["deterministic"] is True
    assert not torch.are_deterministic_algorithms_enabled()
    _, _, other = run_tiny(device="cpu")
    assert other.loss == results.loss
